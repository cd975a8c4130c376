package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// ErrUnknownUplink is what a Source returns for a name that is not configured,
// and what the Client's errors are when it did.
var ErrUnknownUplink = errors.New("unknown uplink")

// Source is what the server needs of the daemon. Its methods are called by many
// goroutines at once.
type Source interface {
	// Status returns a snapshot that nobody changes any more.
	Status() status.Status
	// Drain moves new flows away from an uplink, or ends that. An unknown name
	// is an error that is [ErrUnknownUplink].
	Drain(name string, d status.Drain) error
	// Reload reads the configuration again; with a wait, it is taken back after that unless Confirm is called. An error
	// means that the new one is wrong and that nothing has changed; its text is shown to the operator.
	Reload(wait time.Duration) error
	// Confirm keeps the configuration that waits for it; an error says why not.
	Confirm() error
	// Yield has the other router of a pair take over; an error says why it has not.
	Yield() error
	// Explain says what would become of a packet; without an uplink, if one is named: as if its cable were
	// pulled. An error that is [rules.ErrPacket] or [ErrUnknownUplink] is the asker's.
	Explain(p explain.Packet, without string) (Explanation, error)
	// Healthy returns why the daemon does not do its work, or nil.
	Healthy() error
}

// Meter is what the server needs of what counts. Its methods are called by many goroutines at once.
type Meter interface {
	// History returns what was seen after a time; false when there is no range of that name. "" is the
	// shortest.
	History(name string, after time.Time) (status.History, bool)
	// Report tells of a month, "" for the present one; false for what is no month.
	Report(month string) (status.Report, bool)
	// Usage returns what metered uplinks have carried.
	Usage() status.Usage
}

// Options are what a Server is made of. Source, Meter and Events are required.
type Options struct {
	Source  Source
	Meter   Meter
	Events  *EventLog
	Metrics *Metrics     // nil: no /metrics
	Log     *slog.Logger // nil: slog.Default

	// Examine is the doctor, as far as it can be called from within the daemon; nil: no /api/v1/doctor.
	Examine func(context.Context) (status.Examination, error)

	// Token allows changes over TCP; "" makes that listener read-only.
	Token string

	// Hosts are the names and addresses, besides localhost, loopback addresses
	// and the one that a connection came to, under which the TCP listener may be
	// asked for, without port.
	Hosts []string
}

// limits bound what clients can make the daemon keep or wait for. They hold for
// each listener on its own, so that nobody on the network can lock the operator
// out of the unix socket.
type limits struct {
	connections       int
	clientConnections int // of one client, over TCP
	streams           int // followers of events
	clientStreams     int // of one client, over TCP
	guesses           int // of the token, wrong ones by one client in guessTime
	guessTime         time.Duration
	headerBytes       int   // net/http allows another 4096
	bodyBytes         int64 // no request has a body that matters
	headerTimeout     time.Duration
	readTimeout       time.Duration
	writeTimeout      time.Duration // of a response; of one write to a follower: streamTimeout
	idleTimeout       time.Duration
	streamTimeout     time.Duration
	heartbeat         time.Duration
	grace             time.Duration // for requests in progress when the daemon stops
	look              time.Duration // how often it is looked whether the socket is there, and a failed listener bound again
}

func defaultLimits() limits {
	return limits{
		connections: 128, clientConnections: 32,
		streams: 64, clientStreams: 16,
		guesses: 5, guessTime: time.Minute,
		headerBytes:   16 << 10,
		bodyBytes:     4 << 10,
		headerTimeout: 5 * time.Second,
		readTimeout:   10 * time.Second,
		writeTimeout:  30 * time.Second,
		idleTimeout:   time.Minute,
		streamTimeout: 10 * time.Second,
		heartbeat:     15 * time.Second,
		grace:         time.Second,
		look:          5 * time.Second,
	}
}

// Server answers requests. Make one with [NewServer].
type Server struct {
	o        Options
	log      *slog.Logger
	limits   limits
	hosts    map[string]bool
	examined examinations
}

// NewServer returns a Server that does nothing until Serve.
func NewServer(o Options) *Server {
	s := &Server{o: o, log: o.Log, limits: defaultLimits(), hosts: map[string]bool{"localhost": true}, examined: examinations{turn: make(chan struct{}, 1)}}
	if s.log == nil {
		s.log = slog.Default()
	}
	for _, host := range o.Hosts {
		s.hosts[hostname(host)] = true
	}
	return s
}

// confirmKey is the parameter of a reload that has to be confirmed.
const confirmKey = "confirm"

// nowKey is the parameter of a drain that ends what runs.
const nowKey = "now"

// listenerHandler serves one listener: the routes with its own rights and bounds.
type listenerHandler struct {
	*Server
	local   bool // the unix socket: file permissions have decided already
	streams *shares
	guesses *guesses
}

// handler returns the routes as a listener shows them.
func (s *Server) handler(local bool) http.Handler {
	l := &listenerHandler{Server: s, local: local, streams: newShares(s.limits.streams, s.limits.clientStreams), guesses: newGuesses(s.limits.guesses, s.limits.guessTime)}
	if local {
		l.streams.each = s.limits.streams
	}
	mux := http.NewServeMux()
	for path, h := range l.routes() {
		mux.Handle(path, h)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, fmt.Sprintf("no such page: %q", r.URL.Path))
	})
	return l.middleware(mux)
}

// routes are all that there is; openapi.json describes each.
func (l *listenerHandler) routes() map[string]http.Handler {
	routes := map[string]http.Handler{
		"/{$}":                           get(dashboard(l.o.Token != "")),
		"/api/v1/status":                 get(l.status),
		"/api/v1/uplinks/{name}":         get(l.uplink),
		"/api/v1/events":                 only(l.events, http.MethodGet),
		"/api/v1/history":                get(l.history),
		"/api/v1/report":                 get(l.report),
		"/api/v1/usage":                  get(l.usage),
		"/api/v1/explain":                get(l.explain),
		"/api/v1/openapi.json":           get(describe),
		"/api/v1/uplinks/{name}/drain":   l.post(l.drain),
		"/api/v1/uplinks/{name}/undrain": l.post(l.undrain),
		"/api/v1/reload":                 l.post(l.reload),
		"/api/v1/confirm":                l.post(l.confirm),
		"/api/v1/pair/yield":             l.post(l.yield),
		"/api/v1/token":                  l.post(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		"/healthz":                       get(l.healthz),
	}
	if l.o.Examine != nil {
		routes["/api/v1/doctor"] = get(l.doctor)
	}
	if l.o.Metrics != nil {
		routes["/metrics"] = get(l.o.Metrics.handler(l.o.Source.Status))
	}
	return routes
}

// only answers the methods and refuses all others.
func only(h http.HandlerFunc, methods ...string) http.Handler {
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if r.Method == m {
				h(w, r)
				return
			}
		}
		w.Header().Set("Allow", allow)
		writeError(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s, not %s", r.URL.Path, allow, r.Method))
	})
}

func get(h http.HandlerFunc) http.Handler { return only(h, http.MethodGet, http.MethodHead) }

func (l *listenerHandler) status(w http.ResponseWriter, r *http.Request) {
	status := l.o.Source.Status()
	l.tagged(w, r, "the status", status.Generation, status)
}

// tagged answers with the JSON of v, unless the client has it already.
func (l *listenerHandler) tagged(w http.ResponseWriter, r *http.Request, what string, generation uint64, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		l.fail(w, r, fmt.Errorf("encoding %s: %w", what, err))
		return
	}
	sum := sha256.Sum256(body)
	tag := fmt.Sprintf(`"%d-%s"`, generation, hex.EncodeToString(sum[:8]))
	w.Header().Set("ETag", tag)
	if matches(r.Header.Values("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeBody(w, http.StatusOK, body)
}

// matches reports whether an If-None-Match header names tag, by the weak
// comparison of RFC 9110 section 13.1.2.
func matches(values []string, tag string) bool {
	for _, value := range values {
		for candidate := range strings.SplitSeq(value, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == tag {
				return true
			}
		}
	}
	return false
}

func (l *listenerHandler) uplink(w http.ResponseWriter, r *http.Request) {
	name, status := r.PathValue("name"), l.o.Source.Status()
	for i := range status.Uplinks {
		if status.Uplinks[i].Name != name {
			continue
		}
		l.tagged(w, r, "uplink "+name, status.Generation, status.Uplinks[i])
		return
	}
	writeError(w, http.StatusNotFound, fmt.Sprintf("%v %q", ErrUnknownUplink, name))
}

func (l *listenerHandler) drain(w http.ResponseWriter, r *http.Request) {
	d := status.Drained
	for key, values := range r.URL.Query() {
		if key != nowKey || len(values) != 1 || values[0] != "true" {
			writeError(w, http.StatusBadRequest, fmt.Sprintf("drain knows %s=true, once, and no %q", nowKey, key+"="+strings.Join(values, ",")))
			return
		}
		d = status.DrainedNow
	}
	l.setDrain(w, r, d)
}

func (l *listenerHandler) undrain(w http.ResponseWriter, r *http.Request) {
	l.setDrain(w, r, status.Undrained)
}

func (l *listenerHandler) setDrain(w http.ResponseWriter, r *http.Request, d status.Drain) {
	err := l.o.Source.Drain(r.PathValue("name"), d)
	switch {
	case errors.Is(err, ErrUnknownUplink):
		writeError(w, http.StatusNotFound, err.Error())
	case err != nil:
		l.fail(w, r, err)
	default:
		l.done(w, r)
	}
}

func (l *listenerHandler) reload(w http.ResponseWriter, r *http.Request) {
	wait, err := reloadQuery(r.URL.Query())
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := l.o.Source.Reload(wait); err != nil {
		writeError(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	l.done(w, r)
}

// reloadQuery reads how long a configuration waits to be confirmed; 0 for not at all. Who asks for something that is not
// understood must not get a configuration that stays.
func reloadQuery(query url.Values) (wait time.Duration, err error) {
	for key, values := range query {
		if key != confirmKey || len(values) != 1 {
			return 0, fmt.Errorf("reload knows %s=60s, once, and no %q", confirmKey, key)
		}
		if wait, err = time.ParseDuration(values[0]); err != nil || wait <= 0 {
			return 0, fmt.Errorf("%s=%q is no time to wait, like 60s", confirmKey, values[0])
		}
	}
	return wait, nil
}

func (l *listenerHandler) confirm(w http.ResponseWriter, r *http.Request) {
	if err := l.o.Source.Confirm(); err != nil {
		writeError(w, http.StatusConflict, err.Error())
		return
	}
	l.done(w, r)
}

func (l *listenerHandler) yield(w http.ResponseWriter, r *http.Request) {
	if err := l.o.Source.Yield(); err != nil {
		writeError(w, http.StatusConflict, err.Error())
		return
	}
	l.done(w, r)
}

func (l *listenerHandler) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := l.o.Source.Healthy(); err != nil {
		writeError(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// A client that is gone is no fault of ours; net/http closes the connection.
	_, _ = w.Write([]byte("ok\n"))
}

// done answers a change that was made.
func (l *listenerHandler) done(w http.ResponseWriter, r *http.Request) {
	l.log.Info("changed by request", "path", r.URL.Path, "from", l.client(r))
	w.WriteHeader(http.StatusNoContent)
}

// fail answers a fault of ours.
func (l *listenerHandler) fail(w http.ResponseWriter, r *http.Request, err error) {
	l.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	writeError(w, http.StatusInternalServerError, err.Error())
}

// client names who asks, for the log.
func (l *listenerHandler) client(r *http.Request) string {
	if l.local {
		return "unix socket"
	}
	return r.RemoteAddr
}

// failure is the JSON of every error.
type failure struct {
	Error string `json:"error"`
}

func writeError(w http.ResponseWriter, code int, message string) {
	body, err := json.Marshal(failure{message})
	if err != nil { // a string always has an encoding
		body = []byte(`{"error":"internal error"}`)
	}
	writeBody(w, code, body)
}

func writeBody(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that is gone is no fault of ours; net/http closes the connection.
	_, _ = w.Write(append(body, '\n'))
}
