// Package api renders the status model over HTTP, takes commands, and has the client and the text
// that the command line uses.
//
//	daemon ── Source, Meter > Server ── unix socket, may do everything ──> Client ─> WriteStatus
//	   │                      │  │                                                  WriteEvent
//	   ├── Append ─> EventLog ┘  └──── TCP, read-only without a token ──> browser, Prometheus
//	   │                │
//	   └── Observe ─> Metrics       a slow reader of events loses some and is told so;
//	                                nobody ever waits for one
//
// A [DecisionLog] is an EventLog that the state directory keeps. [Listen] binds, so that a second daemon or a bad address is noticed before
// anything in the kernel changes; [Server.Serve] answers until its context ends.
//
//	GET  /api/v1/status                  Status; ETag
//	GET  /api/v1/uplinks/{name}          Uplink; ETag
//	GET  /api/v1/events                  server-sent events; ?after=ID, ?follow=0
//	GET  /api/v1/history                 History; ?range=5m|1h|24h, ?after=SECONDS
//	GET  /api/v1/explain                 Explanation; ?to=ADDRESS and more
//	GET  /api/v1/usage                   Usage
//	GET  /api/v1/doctor                  Examination
//	GET  /api/v1/report                  Report; ?month=2026-11
//	GET  /api/v1/openapi.json            all of this, for machines
//	POST /api/v1/uplinks/{name}/drain    204; ?now=true; undrain likewise
//	POST /api/v1/pair/yield              204; 409 when the other router has not taken over
//	POST /api/v1/reload                  204; 422 when the configuration is wrong
//	GET  /metrics                        Prometheus
//	GET  /healthz                        200 "ok", or 503
//	GET  /                               the dashboard, page.html
//
// Every failure is a JSON object {"error": "..."}.
//
// The TCP listener expects hostile web pages in the browsers of its users: a
// request must name a host that is surely this one, against DNS rebinding, and
// must not come from another site. All it reads, keeps and waits for is bounded.
package api
