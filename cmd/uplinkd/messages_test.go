package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// Messages of an outage of everything can leave only when it is over, a crash and a restart lie between, and it is told once.
func TestMessagesWaitUntilThereIsAWay(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	var mu sync.Mutex
	var titles []string
	ids := make(map[string]bool)
	var listener net.Listener
	if err := r.Host("inet").Do(func() (err error) { listener, err = net.Listen("tcp", "192.0.2.1:8088"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var m struct{ ID, Title, Text string }
		if err := json.NewDecoder(q.Body).Decode(&m); err != nil || q.Header.Get("Authorization") != "Bearer token" {
			t.Errorf("%v, %v", err, q.Header)
		}
		mu.Lock()
		defer mu.Unlock()
		if !ids[m.ID] { // one that was sent, and not known to be sent when the daemon died, may come again
			titles = append(titles, m.Title)
		}
		ids[m.ID] = true
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	secret := r.dir + "/token"
	if err := os.WriteFile(secret, []byte("token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "\n[[notify]]\nname = \"house\"\nurl = \"http://192.0.2.1:8088/hook\"\nsecret_file = %q\nafter = \"1s\"\n", secret)
	if err := os.WriteFile(r.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	told := func(want ...string) {
		t.Helper()
		// What fails within a minute of an outage of everything may be part of that, and is told when it lasts longer.
		r.awaitFor(2*patience, fmt.Sprintf("messages %q", want), func() error {
			mu.Lock()
			defer mu.Unlock()
			// A try may meet the moment when the way is there and it is not known yet that it is.
			if got := slices.DeleteFunc(slices.Clone(titles), func(s string) bool { return s == "No Internet" }); !slices.Equal(got, want) || len(titles) > len(want)+1 {
				return fmt.Errorf("there were %q", titles)
			}
			return nil
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	must(r.Break(lab.Blackhole, "fiber"))
	must(r.Break(lab.Blackhole, "lte"))
	r.await("the common outage", func() error {
		if !slices.ContainsFunc(r.decisions(), func(e status.Event) bool { return e.Code == string(status.CauseBegan) }) {
			return errors.New("no event tells of it")
		}
		return nil
	})
	time.Sleep(3 * time.Second) // longer than `after`: its begin waits to be told
	r.kill()
	r.start()
	time.Sleep(2 * time.Second)
	must(r.Heal())
	told("The Internet is back")
	r.awaitState("fiber", uplink.Up, uplink.Degraded)
	r.awaitState("lte", uplink.Up, uplink.Degraded)
	must(r.Break(lab.Blackhole, "fiber"))
	told("The Internet is back", "fiber is down")
	must(r.Heal())
	told("The Internet is back", "fiber is down", "fiber is back")
}
