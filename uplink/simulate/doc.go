// Command simulate measures how the shipped judging does on simulated networks:
// how fast it finds what is broken, and how often it takes for broken what is
// not. It prints a table and fails when a bar is missed.
//
//	scenario ── link ──┐   rtt, jitter; per direction: loss, bursts, a blackhole
//	                   v
//	uplink.Evaluator <── drive ──> transitions ──> tally ──> table, bars
//
// Time is virtual and every run has its seed, so the same table comes out each
// time. What is driven is what runs in the field: [uplink.Watcher] adds only
// goroutines and sockets to an [uplink.Evaluator].
package main
