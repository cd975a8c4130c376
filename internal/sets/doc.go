// Package sets keeps the addresses of sections [[set]] whose source is a file, a URL or the name service.
//
//	file ── inotify, and a look a second ──┐
//	URL ── every refresh, by https ────────┼─► parse ─► content ─► Changed: the daemon plans, AddTo(&config)
//	names ── Lookup, by their TTL ─────────┘               │
//	                                                       ▼
//	                             cache in the state directory, read by Configure before the first plan
//
// What is no list changes nothing: the content of before stays in use, and [Engine.Problems] says why. A content is an [inet.Set],
// which never changes, so that planning and status share it.
//
// # Goroutines
//
// [Engine.Run] is one loop, with a goroutine for each fetch and each round of look-ups under way, and one that reads inotify.
//
// # Locks
//
// Engine.mu guards what is known of sets. Files are read by the loop and by Configure, which do so one after the other (Engine.reading).
package sets
