package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// request is what a web service was asked.
type request struct {
	Method, Path string
	Header       map[string]string
	Body         map[string]any
}

// webService answers with a code, over TLS, and gives each request to a channel.
func webService(t *testing.T, code int) (host string, requests chan request) {
	t.Helper()
	requests = make(chan request, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := request{Method: r.Method, Path: r.URL.Path, Header: make(map[string]string)}
		for _, name := range []string{"Authorization", "X-Gotify-Key", "Idempotency-Key"} {
			if v := r.Header.Get(name); v != "" {
				got.Header[name] = v
			}
		}
		text, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(text, &got.Body) != nil {
			t.Errorf("the body is no JSON: %q, %v", text, err)
		}
		requests <- got
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "  it\n is so ")
	}))
	server.TLS = tlsConfig()
	server.StartTLS()
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "https://"), requests
}

func TestWebServicesGetWhatTheirInterfacesSay(t *testing.T) {
	m := message()
	for name, c := range map[string]struct {
		url, secret string
		want        request
	}{
		"ntfy": {"ntfy://HOST/home", "", request{"POST", "/", map[string]string{},
			map[string]any{"topic": "home", "title": m.Title, "message": m.Text, "priority": 4.0, "tags": []any{"warning"}}}},
		"ntfy, below a path, with a token": {"ntfy://HOST/ntfy/home", "tk_1", request{"POST", "/ntfy/", map[string]string{"Authorization": "Bearer tk_1"},
			map[string]any{"topic": "home", "title": m.Title, "message": m.Text, "priority": 4.0, "tags": []any{"warning"}}}},
		"Gotify": {"gotify://HOST", "A1", request{"POST", "/message", map[string]string{"X-Gotify-Key": "A1"},
			map[string]any{"title": m.Title, "message": m.Text, "priority": 5.0}}},
		"Telegram": {"telegram://HOST/-100123", "1:Ab_c-D", request{"POST", "/bot1:Ab_c-D/sendMessage", map[string]string{},
			map[string]any{"chat_id": "-100123", "text": m.Title + "\n" + m.Text, "disable_notification": false}}},
		"a web service": {"https://HOST/hook?x=1", "t0ken", request{"POST", "/hook", map[string]string{"Authorization": "Bearer t0ken", "Idempotency-Key": "phone-1"},
			map[string]any{"id": "phone-1", "time": "2026-11-29T20:07:31Z", "kind": "switch", "uplink": "fiber", "priority": "warning", "title": m.Title, "text": m.Text}}},
	} {
		t.Run(name, func(t *testing.T) {
			host, requests := webService(t, http.StatusOK)
			if err := parse(t, strings.Replace(c.url, "HOST", host, 1), c.secret).Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, <-requests); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What a service answers decides whether the message waits, is dropped, or waits for somebody to do something.
func TestAnswersAreToldApart(t *testing.T) {
	for code, want := range map[int]string{
		200: "taken", 204: "taken", 408: "later", 429: "later", 500: "later", 503: "later",
		400: "message", 413: "message", 401: "account", 403: "account", 404: "account", 301: "account",
	} {
		host, _ := webService(t, code)
		err := parse(t, "ntfy://"+host+"/home", "secret").Send(t.Context(), message())
		got := "later"
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			if got = "account"; refusal.Message {
				got = "message"
			}
		} else if err == nil {
			got = "taken"
		}
		if got != want {
			t.Errorf("%d is %q, want %q: %v", code, got, want, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "it is so") && code != 204 || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%d: the error says %q", code, err)
		}
	}
}

func TestAServerThatIsNotThereIsTriedAgainAndNoSecretIsTold(t *testing.T) {
	err := parse(t, "telegram://127.0.0.1:1/1", "123:secret").Send(t.Context(), message())
	if _, refused := errors.AsType[*Refusal](err); err == nil || refused || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// A server whose certificate does not hold is not given a secret.
func TestTLSIsChecked(t *testing.T) {
	host, requests := webService(t, http.StatusOK)
	name := strings.Replace(host, "127.0.0.1", "localhost", 1) // of which the certificate says nothing
	if err := parse(t, "gotify://"+name, "A1").Send(t.Context(), message()); err == nil {
		t.Error("the message went to a server with a certificate of another name")
	}
	if len(requests) != 0 {
		t.Error("and so did the secret")
	}
}

func TestURLsThatSayNothing(t *testing.T) {
	for url, want := range map[string]string{
		"ntfy.example.net/home":                                             `there is no service ""`,
		"ntfy:home":                                                         "no server is named",
		"ntfy://ntfy.example.net":                                           "no topic is named",
		"ntfy://ntfy.example.net/":                                          "no topic is named",
		"ntfy://ntfy.example.net/home#x":                                    "what follows #",
		"ntfy://me:secret@ntfy.example.net/home":                            "a password does not belong here",
		"ntfy://ntfy.example.net/home?tls=no":                               "tls is on or off",
		"ntfy://ntfy.example.net/home?priority=5":                           `no option "priority"`,
		"telegram://api.telegram.org/":                                      "no chat is named",
		"smtp://mail.example.net/?to=me@example.net":                        "there is no sender",
		"smtp://mail.example.net/?from=a@example.net":                       "nobody is to get the mail",
		"smtp://mail.example.net/?from=a@b.example&to=me":                   "to=me is not an address",
		"smtps://mail.example.net/?from=a@b.example&to=a@b.example&tls=off": "smtps is TLS",
		"smtp://mail.example.net:0/?from=a@b.example&to=a@b.example":        "0 is not a port",
		"mqtt://192.0.2.1/home/+":                                           "neither + nor #",
		"mqtt://192.0.2.1/home?discovery=%23":                               "discovery is a topic",
		"ftp://192.0.2.1/":                                                  `there is no service "ftp"`,
		"http://":                                                           "no server is named",
		"http://192.0.2.1:port/":                                            "not a URL",
	} {
		if _, err := Parse(url, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	for _, k := range kinds {
		if _, err := Parse(k.example, "123:secret"); err != nil {
			t.Errorf("the example %s: %v", k.example, err)
		}
	}
}

// Whatever a URL is, it makes a service or an error, and an error does not repeat what may be a secret.
func FuzzParse(f *testing.F) {
	for _, k := range kinds {
		f.Add(k.example, "123:secret")
	}
	f.Fuzz(func(t *testing.T, url, secret string) {
		s, err := Parse(url, secret)
		if (s == nil) == (err == nil) {
			t.Fatalf("%v, %v", s, err)
		}
		if err != nil && len(secret) > 20 && bytes.Contains([]byte(err.Error()), []byte(secret)) && !strings.Contains(url, secret) {
			t.Fatalf("the error repeats the secret: %v", err)
		}
	})
}
