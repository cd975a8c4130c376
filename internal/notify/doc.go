// Package notify tells the router's owner what has happened, in as few messages as say it.
//
//	decision log ──> Engine.Event ──> digest (pure): one message for one outage, one an hour for what flaps
//	                                    │ due
//	                                    ▼
//	                                  queue, on disk: what cannot be sent now waits; what has been overtaken by news is replaced
//	                                    │ a worker for each [[notify]]
//	                                    ▼
//	                                  service.Service: ntfy, Gotify, Telegram, mail, MQTT, HTTP
//
// # Goroutines
//
// [Engine.Run] has one worker for each destination, which ends when a reload takes the destination away. A worker that hangs holds up
// nobody else.
//
// # Locks
//
// Engine.mu guards digests and queues. No file, no socket and no callback of [Options] is used under it.
package notify
