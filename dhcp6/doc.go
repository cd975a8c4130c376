// Package dhcp6 keeps delegated prefixes, and addresses if wanted, on one uplink: a DHCPv6 client after
// RFC 9915 with prefix exclusion (RFC 6603).
//
//	               SetLink, Release
//	                     │
//	Conn  ─ datagrams ─► Client ─ bytes, instants ─► machine ─► what to send, Changes
//	(socket.go, or a     one goroutine               pure: owns no clock, socket or randomness
//	 fake; kept open by                                │
//	 linksession)                                      │
//	                                                   ├─ retransmit.go  section 15, rate limit
//	                                                   ├─ parse.go       datagram -> message, tolerant
//	                                                   ├─ offer.go       which Advertise
//	                                                   ├─ reply.go       what a Reply leads to
//	                                                   ├─ binding.go     what we hold, until when
//	                                                   ├─ restore.go     what is left of a stored Lease
//	                                                   └─ build.go       message -> datagram
//
// It is a server too: a delegating router for the routers behind a LAN.
//
//	ServerConn ─ datagrams ─► Server ─► Answer, of the caller ─► Delegator ─► the answer, and whether to store and plan first
//	(serversocket.go)         one goroutine for each LAN          pure         │
//	                                                                          ├─ serverquery.go  datagram -> query, tolerant
//	                                                                          ├─ answer.go       what each message leads to
//	                                                                          └─ delegator.go    who has which part, until when
//
// What a Delegator gives follows from the [Terms] of each link alone, which say what may be given now, and for how long; it remembers
// who has been told what, and until when that counts. Nobody else gets a part of that before. Times are the caller's: within a run
// they have a monotonic reading, stored ones are read as the rest of a lifetime.
//
// # States
//
//	stopped    -> verifying   the link comes up, and there is a lease or the memory of one
//	stopped    -> soliciting  the link comes up, and there is none
//	soliciting -> requesting  an Advertise was chosen
//	soliciting -> bound       Rapid Commit
//	requesting -> bound       a Reply grants something
//	requesting -> soliciting  refused, or ten times unanswered by each server that advertised
//	bound      -> renewing    T1
//	renewing   -> rebinding   T2
//	renewing, rebinding, verifying -> bound       renewed
//	renewing, rebinding, verifying -> requesting  the server has no binding
//	verifying  -> bound       ten seconds of silence: the lease holds (RFC 9915 section 18.2.12), and its
//	                          T1 and T2 say whether it is bound, renewing or rebinding
//	any        -> soliciting  the last lease has expired or was withdrawn
//	any        -> stopped     the link goes
//	any        -> releasing -> released            only when told to
//
// What is held is independent of the state: a lease is used until it expires, or until a server says that
// it is over, whatever is being asked meanwhile.
//
// # Clocks
//
// Within a run all timers go by a monotonic clock that counts time asleep, so no step of the wall clock
// ends or prolongs a lease. A [Lease] is stored in wall-clock times for the next run. When the wall clock
// steps, the lease is told again with corrected times, so that the stored one is right too.
//
// A stored lease is judged by the wall clock at start. If it was stored in the future, the clock is wrong
// and says nothing about its age: it gets the lifetimes that the server gave, counted from now. If it seems
// to have expired it is not used, for it may be somebody else's, but the client asks for it by Rebind
// before anything else; only silence or a refusal makes it solicit, and still with that prefix as a hint.
package dhcp6
