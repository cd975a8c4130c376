package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// fakeDaemon is as much of `uplinkd run -c FILE` as the lab's commands see: the configuration, the API, and a crude
// failover from fiber to lte.
func fakeDaemon(ctx context.Context, args []string) error {
	if len(args) != 2 || args[0] != "-c" {
		return fmt.Errorf("started with %q", args)
	}
	data, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	var config struct {
		Daemon struct{ Socket, Listen string }
		Uplink []struct {
			Name, Device string
			Tier         int
			Probe        struct{ Targets []string }
		}
	}
	if err := toml.Unmarshal(data, &config); err != nil {
		return err
	}
	if len(config.Uplink) < 2 || config.Uplink[0].Name != Fiber || config.Uplink[1].Device != "wan2" || len(config.Uplink[1].Probe.Targets) != 8 {
		return fmt.Errorf("odd configuration %+v", config)
	}
	if msg := os.Getenv("UPLINKD_TEST_DAEMON_FAILS"); msg != "" {
		return errors.New(msg)
	}
	var dead atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(rw, "a dashboard") })
	mux.HandleFunc("GET /api/v1/status", func(rw http.ResponseWriter, _ *http.Request) {
		state := map[string]string{"state": "up"}
		if dead.Load() {
			state["state"] = "down"
		}
		fiber := map[string]any{"name": Fiber, "ipv4": state, "ipv6": state}
		_ = json.NewEncoder(rw).Encode(map[string]any{"uplinks": []any{fiber}})
	})
	if err := fakeSetup(); err != nil {
		return err
	}
	unix, err := net.Listen("unix", config.Daemon.Socket)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", config.Daemon.Listen)
	if err != nil {
		return err
	}
	for _, ln := range []net.Listener{unix, tcp} {
		srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
		go func() { _ = srv.Serve(ln) }()
		defer func() { _ = srv.Close() }()
	}
	fmt.Println("the fake daemon runs")
	return fakeFailover(ctx, &dead)
}

func fakeSetup() error {
	return errors.Join(
		feed(context.Background(), `table inet fake {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname { "wan1", "wan2" } masquerade
	}
}
`, "nft", "-f", "-"),
		feed(context.Background(), `rule add from 203.0.113.2 lookup 100
route add default via 203.0.113.1 dev wan2 table 100
route add 192.0.2.2 via 198.51.100.1 dev wan1
`, "ip", "-4", "-batch", "-"),
		feed(context.Background(), `rule add from 2001:db8:b::2 lookup 100
route add default via fe80::1 dev wan2 table 100
`, "ip", "-6", "-batch", "-"))
}

// fakeFailover asks one target, over fiber, every 100 ms.
func fakeFailover(ctx context.Context, dead *atomic.Bool) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	d := net.Dialer{Timeout: 300 * time.Millisecond}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		conn, err := d.DialContext(ctx, "tcp", TCP4+":443")
		if err == nil {
			_ = conn.Close()
		}
		if ctx.Err() != nil || dead.Load() == (err != nil) {
			continue
		}
		dead.Store(err != nil)
		verb := "delete"
		if err != nil {
			verb = "add"
		}
		for _, route := range []string{"-4 route %s default via 203.0.113.1 dev wan2 metric 50", "-6 route %s default via fe80::1 dev wan2 metric 50"} {
			args := strings.Fields(fmt.Sprintf(route, verb))
			if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("%q: %w: %s", args, err, out)
			}
		}
	}
}
