package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestADaemonsAddress(t *testing.T) {
	for address, want := range map[string]string{
		"http://192.0.2.1:9275":             "http://192.0.2.1:9275",
		"https://example.net/house/":        "https://example.net/house",
		"http://[2001:db8::1]:9275":         "http://[2001:db8::1]:9275",
		"unix:/run/uplinkd/uplinkd.sock":    "http://localhost",
		"unix:///run/uplinkd/uplinkd.sock":  "http://localhost",
		"unix:uplinkd.sock":                 "",
		"unix:":                             "",
		"192.0.2.1:9275":                    "",
		"example.net":                       "",
		"":                                  "",
		"http://":                           "",
		"http://:9275":                      "",
		"ftp://example.net":                 "",
		"http://example.net?token=sesam":    "",
		"http://example.net/#token":         "",
		"https://admin:sesam@example.net":   "",
		"https://admin:se%zzam@example.net": "",
	} {
		c, err := dialURL(address)
		switch {
		case want == "" && !errors.Is(err, ErrBadURL):
			t.Errorf("%s: %v", address, err)
		case want == "" && strings.Contains(address, "@") && strings.Contains(err.Error(), "zzam"):
			t.Errorf("the password is shown: %v", err)
		case want != "" && (err != nil || c.base != want):
			t.Errorf("%s: %+v, %v", address, c, err)
		}
	}
}

func TestAllRoutersAreAskedAtOnce(t *testing.T) {
	together, rest := make(chan struct{}), make(chan struct{})
	slow := func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"version":"`)) // and no more, ever
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	meet := func(w http.ResponseWriter, _ *http.Request) {
		together <- struct{}{}
		<-rest
		_ = json.NewEncoder(w).Encode(sampleStatus())
	}
	go func() {
		<-together
		<-together
		close(rest)
	}()
	address := func(h http.HandlerFunc) string { return "unix:" + stranger(t, h).socket }
	urls := []string{
		address(meet), address(meet),
		address(slow),
		address(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }),
		address(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) }),
		address(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }),
		"unix:" + staleSocket(t),
	}
	all, err := AskAll(t.Context(), append(urls, urls[0]), 2*time.Second)
	if err != nil || len(all) != len(urls) {
		t.Fatalf("%d answers, %v", len(all), err)
	}
	for i, want := range []string{"", "", "no answer within 2s", "what answers is no uplinkd", "reading the status: invalid character", "uplinkd answered 401 Unauthorized", "no uplinkd answers"} {
		if got := all[i].Err; all[i].URL != urls[i] || (want == "") != (got == nil) || got != nil && !strings.Contains(got.Error(), want) {
			t.Errorf("%s: %v, want %q", all[i].URL, got, want)
		}
		if want != "" && all[i].Health() != status.NotOnline {
			t.Errorf("%s: %v", all[i].URL, all[i].Health())
		}
	}
	if _, err := AskAll(t.Context(), append(urls, "nonsense"), time.Second); !errors.Is(err, ErrBadURL) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if all, err := AskAll(ctx, urls[2:3], time.Second); err != nil || !errors.Is(all[0].Err, context.Canceled) {
		t.Errorf("%+v, %v", all, err)
	}
}

// A router that was taken over may answer anything.
func TestARouterOfAFleetTakesNoMemory(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"headline":"`))
		piece := bytes.Repeat([]byte("x"), 64<<10)
		for {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}
	socket := stranger(t, endless).socket
	client := newClient("http://192.0.2.1", "", maxFleet, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	})
	if _, err := client.Status(t.Context()); err == nil || err.Error() != "reading the status: it is longer than 4194304 bytes" {
		t.Errorf("%v", err)
	}
}

func TestAFleetOverTCP(t *testing.T) {
	l, _, _ := serve(t, newServer(newDaemon()))
	address := "http://" + l.tcp.Addr().String()
	all, err := AskAll(t.Context(), []string{address, "https://" + l.tcp.Addr().String()}, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if all[0].Err != nil || len(all[0].Status.Uplinks) == 0 {
		t.Errorf("%+v", all[0])
	}
	if all[1].Err == nil || strings.Contains(all[1].Err.Error(), "/api/v1") {
		t.Errorf("%v", all[1].Err)
	}
}

func sampleRouters() []Router {
	well := status.Status{Version: "v1.4.0", Headline: "Backup: the other router has 192.0.2.1.", Pair: &status.Pair{Role: "backup"}}
	return []Router{
		{URL: "http://10.9.0.1:9275", Status: sampleStatus()},
		{URL: "http://10.9.0.2:9275", Status: well},
		{URL: "https://example.net/house", Err: errors.New("dial tcp 192.0.2.7:443:\x1b[2J no answer")},
		{URL: "unix:/run/u.sock", Status: status.Status{Version: "v1", Headline: "Offline; fiber down."}},
	}
}

func TestRoutersHaveALineEach(t *testing.T) {
	var b bytes.Buffer
	if err := WriteRouters(&b, sampleRouters(), false); err != nil {
		t.Fatal(err)
	}
	golden(t, "routers.txt", b.Bytes())
}

func TestTheJSONOfRoutersHasStatusOrError(t *testing.T) {
	for i, r := range sampleRouters() {
		data, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Status *status.Status `json:"status"`
			Error  string         `json:"error"`
		}
		if err := jsonStrict(data, &got); err != nil || (got.Status == nil) != (r.Err != nil) || (got.Error == "") != (r.Err == nil) {
			t.Errorf("%d: %s, %v", i, data, err)
		}
		if got.Status != nil {
			if diff := cmp.Diff(r.Status.Headline, got.Status.Headline); diff != "" {
				t.Error(diff)
			}
		}
	}
}
