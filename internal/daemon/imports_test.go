package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/uplinkd/uplinkd/"

// imports says which of our packages each package imports, level by level. docs/architecture.md draws it.
var imports = map[string][]string{
	// pure
	"rules/inet":              nil,
	"rules/nft":               {"rules/inet"},
	"rules/encap":             nil,
	"rules/netcfg":            {"rules/encap", "rules/inet", "rules/nft"},
	"internal/programs":       nil,
	"rules":                   {"internal/programs", "rules/encap", "rules/inet", "rules/netcfg", "rules/nft"},
	"rules/explain":           {"rules", "rules/netcfg", "rules/nft"},
	"probe":                   {"internal/icmpecho"},
	"docs":                    nil,
	"uplink":                  {"probe", "rules"},
	"uplink/simulate":         {"probe", "rules", "uplink"},
	"dhcp6":                   {"internal/linksession", "rules/inet"},
	"internal/config":         {"internal/notify/service", "internal/programs", "probe", "rules/encap", "rules/inet"},
	"internal/planinput":      {"internal/config", "rules", "rules/encap", "rules/netcfg"},
	"internal/importer":       {"internal/config", "probe"},
	"internal/discovery":      {"internal/config", "internal/lease", "rules", "rules/netcfg"},
	"internal/status":         {"internal/config", "internal/planinput", "rules", "rules/netcfg", "uplink"},
	"internal/icmpecho":       nil,
	"internal/secret":         nil,
	"internal/notify/service": nil,
	"internal/doctor":         {"internal/icmpecho", "internal/programs", "internal/status", "rules", "rules/explain", "rules/netcfg", "uplink"},
	// adapters
	"internal/kernel":            {"internal/counters", "rules", "rules/encap", "rules/explain", "rules/netcfg", "rules/nft"},
	"internal/kernel/fakekernel": {"rules", "rules/encap", "rules/netcfg"},
	"internal/counters":          nil,
	"internal/linksession":       nil,
	"internal/dhcp4":             {"internal/linksession"},
	"internal/ndisc":             {"internal/linksession", "rules/inet"},
	"internal/ndproxy":           {"internal/linksession", "rules/inet"},
	"internal/lease":             nil,
	"internal/store":             {"internal/schedule"},
	"internal/commit":            {"internal/config", "internal/status", "internal/store", "rules"},
	"internal/hooks":             {"internal/status"},
	"internal/schedule":          nil,
	"internal/loglimit":          nil,
	// engines
	"internal/reconcile":  {"internal/schedule", "rules", "rules/netcfg", "rules/nft"},
	"internal/monitor":    {"internal/config", "internal/counters", "internal/planinput", "internal/schedule", "internal/status", "probe", "rules", "uplink"},
	"internal/addressing": {"dhcp6", "internal/config", "internal/dhcp4", "internal/ndisc", "internal/ndproxy", "internal/planinput", "internal/schedule", "internal/status", "rules", "rules/netcfg", "uplink"},
	"internal/tunnel":     {"internal/config", "internal/planinput", "internal/schedule", "internal/secret", "internal/status", "probe", "rules", "rules/netcfg"},
	"internal/clat":       {"internal/config", "internal/planinput", "internal/schedule", "internal/status", "probe", "rules", "rules/inet"},
	"internal/dns":        {"internal/config", "internal/lease", "internal/planinput", "internal/schedule", "internal/status", "internal/store", "probe", "rules", "rules/nft"},
	"internal/notify":     {"internal/config", "internal/notify/service", "internal/secret", "internal/status", "rules", "uplink"},
	"internal/recovery":   {"internal/config", "internal/hooks", "internal/schedule", "internal/status", "rules", "uplink"},
	"internal/sets":       {"internal/config", "internal/schedule", "internal/status", "internal/store", "rules", "rules/inet"},
	"internal/pair":       {"internal/config", "internal/hooks", "internal/planinput", "internal/secret", "internal/status", "rules", "rules/netcfg"},
	"internal/usage":      {"internal/config", "internal/counters", "internal/schedule", "internal/status", "rules", "uplink"},
	// what joins and renders them
	"internal/api":     {"internal/secret", "internal/status", "internal/store", "rules", "rules/explain", "uplink"},
	"internal/trace":   {"internal/api", "internal/config", "internal/kernel", "rules", "rules/explain"},
	"internal/daemon":  {"dhcp6", "internal/addressing", "internal/api", "internal/clat", "internal/commit", "internal/config", "internal/counters", "internal/discovery", "internal/dns", "internal/hooks", "internal/kernel", "internal/monitor", "internal/notify", "internal/pair", "internal/planinput", "internal/reconcile", "internal/recovery", "internal/schedule", "internal/sets", "internal/status", "internal/store", "internal/trace", "internal/tunnel", "internal/usage", "probe", "rules", "rules/explain", "uplink"},
	"internal/offline": {"dhcp6", "internal/addressing", "internal/api", "internal/clat", "internal/commit", "internal/config", "internal/discovery", "internal/dns", "internal/doctor", "internal/importer", "internal/kernel", "internal/monitor", "internal/pair", "internal/planinput", "internal/programs", "internal/reconcile", "internal/sets", "internal/store", "internal/trace", "internal/tunnel", "rules", "rules/encap", "rules/explain", "rules/netcfg"},
	"cmd/uplinkd":      {"docs", "internal/api", "internal/config", "internal/daemon", "internal/doctor", "internal/hooks", "internal/importer", "internal/lab", "internal/loglimit", "internal/offline", "internal/programs", "internal/sets", "internal/status", "rules", "rules/explain", "rules/netcfg"},
	// the lab and the virtual machine
	"internal/lab":                {"internal/linksession"},
	"internal/vm":                 nil,
	"internal/store/storetest":    nil,
	"internal/schedule/clocktest": nil,
	"internal/vm/vmexec":          {"internal/vm"},
}

// Engines import neither one another nor what stands above them.
var (
	engines = []string{"internal/reconcile", "internal/monitor", "internal/addressing", "internal/tunnel", "internal/clat", "internal/dns", "internal/notify", "internal/recovery", "internal/sets", "internal/usage", "internal/pair"}
	above   = []string{"internal/api", "internal/trace", "internal/daemon", "internal/offline", "internal/kernel"}
)

// kernelLibraries may be imported by internal/kernel alone.
var kernelLibraries = []string{"github.com/vishvananda/netlink", "github.com/google/nftables", "github.com/mdlayher/netlink", "golang.zx2c4.com/wireguard"}

func TestImportsGoOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		want, known := imports[name]
		if !known {
			t.Errorf("package %s is not in the table of this test: where does it stand?", name)
		}
		var ours []string
		for _, i := range p.Imports {
			if i, ok := strings.CutPrefix(i, module); ok {
				ours = append(ours, i)
				if slices.Contains(engines, name) && (slices.Contains(engines, i) || slices.Contains(above, i)) {
					t.Errorf("the engine %s imports %s", name, i)
				}
			}
			library := slices.ContainsFunc(kernelLibraries, func(l string) bool { return i == l || strings.HasPrefix(i, l+"/") })
			if library && name != "internal/kernel" {
				t.Errorf("%s imports %s, which is for internal/kernel alone", name, i)
			}
		}
		if slices.Sort(ours); !slices.Equal(ours, want) {
			t.Errorf("%s imports %q, the table has %q", name, ours, want)
		}
	}
	if seen != len(imports) {
		t.Errorf("%d packages were listed, the table has %d", seen, len(imports))
	}
}
