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

// allowed says which of our packages each package may import. docs/architecture.md draws it.
var allowed = map[string][]string{
	"rules":                      nil,
	"rules/explain":              {"rules"},
	"probe":                      nil,
	"uplink":                     {"rules", "probe"},
	"uplink/simulate":            {"probe", "uplink"},
	"dhcp6":                      {"internal/linksession"},
	"internal/config":            {"probe"},
	"internal/store":             nil,
	"internal/lab":               {"internal/linksession"},
	"internal/dhcp4":             {"internal/linksession"},
	"internal/doctor":            {"rules", "rules/explain"},
	"internal/hooks":             nil,
	"internal/ndisc":             {"internal/linksession"},
	"internal/linksession":       nil,
	"internal/tunnel":            {"rules", "probe", "internal/config", "internal/planinput", "internal/schedule", "internal/status"},
	"internal/vm":                nil,
	"internal/vm/vmexec":         {"internal/vm"},
	"internal/counters":          nil,
	"internal/kernel":            {"rules", "rules/explain", "internal/counters"},
	"internal/kernel/fakekernel": {"rules"},
	"internal/reconcile":         {"rules", "internal/schedule"},
	"internal/schedule":          nil,
	"internal/status":            {"rules", "uplink"},
	"internal/planinput":         {"rules", "internal/config"},
	"internal/api":               {"rules", "rules/explain", "uplink", "internal/status"},
	"internal/usage":             {"rules", "uplink", "internal/config", "internal/counters", "internal/schedule", "internal/status"},
	"internal/monitor":           {"rules", "probe", "uplink", "internal/config", "internal/counters", "internal/planinput", "internal/schedule", "internal/status"},
	"internal/addressing":        {"rules", "probe", "uplink", "dhcp6", "internal/config", "internal/dhcp4", "internal/ndisc", "internal/planinput", "internal/schedule", "internal/status"},
	"internal/daemon": {"rules", "rules/explain", "probe", "uplink", "internal/addressing", "internal/api", "internal/config", "internal/counters", "internal/monitor", "internal/planinput", "internal/schedule", "internal/status", "internal/doctor", "internal/hooks",
		"internal/kernel", "internal/reconcile", "internal/store", "internal/tunnel", "internal/usage"},
	"cmd/uplinkd": {"rules", "rules/explain", "internal/api", "internal/status", "internal/config", "internal/daemon", "internal/doctor", "internal/lab"},
}

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
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s is not in the table of this test: where does it stand?", name)
		}
		for _, i := range p.Imports {
			if ours, ok := strings.CutPrefix(i, module); ok && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s, against the direction", name, ours)
			}
			library := slices.ContainsFunc(kernelLibraries, func(l string) bool { return i == l || strings.HasPrefix(i, l+"/") })
			if library && name != "internal/kernel" {
				t.Errorf("%s imports %s, which is for internal/kernel alone", name, i)
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d packages were listed, the table has %d", seen, len(allowed))
	}
}
