package offline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// programsHere recognises the known programs by what they keep in the kernel, and by their processes.
func programsHere(k *kernel.Kernel, own uint8, obs *rules.Observed, routes []netcfg.Route) ([]programs.Found, error) {
	chains, legacy, err := k.ForeignChains()
	if err != nil {
		return nil, err
	}
	seen := programs.Seen{Legacy: legacy}
	for _, c := range chains {
		seen.Tables, seen.Chains = append(seen.Tables, c[0]+" "+c[1]), append(seen.Chains, c[2])
	}
	for _, l := range obs.Links {
		seen.Devices = append(seen.Devices, l.Name)
	}
	for _, r := range obs.Rules {
		if r.Protocol != own {
			seen.Protocols = append(seen.Protocols, r.Protocol)
			seen.Marks = append(seen.Marks, programs.Mark{Value: r.Mark, Mask: r.Mask})
		}
	}
	for _, r := range routes {
		if r.Protocol != own {
			seen.Protocols = append(seen.Protocols, r.Protocol)
		}
	}
	if seen.Processes, seen.Units, err = processesHere("/proc"); err != nil {
		return nil, err
	}
	return programs.Find(seen), nil
}

// commandsHere lists what the processes of a name in this network namespace were started with.
func commandsHere(proc, program string) (list [][]string) {
	here, err := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	if err != nil {
		return nil
	}
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*")) // the pattern is right
	for _, dir := range dirs {
		if there, err := os.Readlink(dir + "/ns/net"); err != nil || there != here {
			continue
		}
		name, _ := os.ReadFile(dir + "/comm")
		words, err := os.ReadFile(dir + "/cmdline")
		if err == nil && strings.TrimSpace(string(name)) == program && len(words) > 0 {
			list = append(list, strings.Split(strings.TrimSuffix(string(words), "\x00"), "\x00"))
		}
	}
	return list
}

// processesHere lists the names of the processes in this network namespace, and their systemd units. What may not be looked at
// is left out.
func processesHere(proc string) (names, units []string, err error) {
	here, err := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	if err != nil {
		return nil, nil, fmt.Errorf("looking for this network namespace: %w", err)
	}
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return nil, nil, err
	}
	for _, dir := range dirs {
		if there, err := os.Readlink(dir + "/ns/net"); err != nil || there != here {
			continue
		}
		name, err := os.ReadFile(dir + "/comm")
		if err != nil {
			continue // it has ended: ENOENT, or ESRCH when that was a moment ago
		}
		names = append(names, strings.TrimSpace(string(name)))
		groups, _ := os.ReadFile(dir + "/cgroup") // "0::/system.slice/frr.service" (cgroups(7))
		for line := range strings.Lines(string(groups)) {
			if unit := filepath.Base(strings.TrimSpace(line)); strings.HasSuffix(unit, ".service") {
				units = append(units, unit)
			}
		}
	}
	return names, units, nil
}
