package offline

import (
	"log/slog"
	"maps"
	"time"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/clat"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/internal/dns"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/sets"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/rules"
)

// session is what all commands start from.
type session struct {
	kernel *kernel.Kernel // to be closed
	config *config.Config
	lines  config.Lines
	cfg    rules.Config
	saved  *savedState
	keys   error // why keys of WireGuard could not be read
}

// open reads the configuration, or discovers one, and the state directory, and opens the kernel.
func open(configFile string) (*session, error) {
	file, err := config.Load(configFile)
	if err != nil {
		return nil, err
	}
	return openWith(file, configFile == "")
}

// openWith does the same with a configuration, in which uplinks may have to be discovered.
func openWith(file config.File, discovers bool) (_ *session, err error) {
	in := &session{config: file.Config, lines: file.Lines}
	in.saved = readSaved(in.config.Daemon.StateDir)
	if in.kernel, err = kernel.Open(planinput.KernelNumbers(in.config.Kernel), slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			in.kernel.Close()
		}
	}()
	if discovers {
		obs, err := in.kernel.Snapshot(rules.Query{})
		if err != nil {
			return nil, err
		}
		in.config, _ = discovery.New(in.config, discovery.ThisMachine(kernel.Driver)).Scan(obs)
	}
	if _, err := planinput.AssignIDs(in.config, in.saved.ids); err != nil {
		return nil, err
	}
	if in.config.Pair.On() {
		if err := in.joinPair(); err != nil {
			return nil, err
		}
	}
	devices := new(kernel.WireGuard)
	defer devices.Close()
	tunnels := tunnel.New(tunnel.Options{WireGuard: devices})
	in.keys = tunnels.DryRun(in.config, in.saved.ids)
	learned := in.saved.addressing.Learned(time.Now())
	tunnels.Learn(learned)
	names := dns.New(dns.Options{})
	names.Configure(in.config)
	names.Learn(learned)
	in.saved.clat.Configure(in.config)
	in.saved.clat.Learn(learned)
	in.cfg = planinput.Build(in.config, in.saved.ids, learned, in.saved.addressing.ULA(in.config.Daemon.ULA))
	in.saved.addressing.AddTo(&in.cfg, time.Now())
	contents := sets.New(sets.Options{})
	contents.Configure(in.config)
	contents.AddTo(&in.cfg)
	return in, nil
}

// savedState is what the state directory holds.
type savedState struct {
	ids        map[string]int
	recorded   rules.Recorded
	monitor    monitor.Saved
	addressing *addressing.Engine // which runs nothing
	clat       *clat.Engine       // likewise
}

// readSaved reads the state directory without making it.
func readSaved(dir string) *savedState {
	k := &savedState{ids: make(map[string]int), addressing: addressing.New(addressing.Options{}), clat: clat.New(clat.Options{})}
	state := store.View(dir)
	documents := k.addressing.Documents()
	maps.Copy(documents, k.monitor.Documents())
	maps.Copy(documents, k.clat.Documents())
	maps.Copy(documents, map[string]any{store.IDs: &k.ids, store.Recorded: &k.recorded})
	for name, v := range documents {
		_ = state.Load(name, v) // the daemon would start afresh where it fails
	}
	k.addressing.Restore(time.Now())
	return k
}
