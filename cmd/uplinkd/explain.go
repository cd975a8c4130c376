package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/url"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/offline"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// errKernelDiffers ends explain when the kernel does not confirm it.
var errKernelDiffers = errors.New("the kernel's own answer differs from this explanation")

func explainCommand(set *flag.FlagSet) runner {
	file, socket := configFlag(set), socketFlag(set)
	asJSON := set.Bool("json", false, "print JSON")
	all := set.Bool("all", false, "show also the rules and routes that were passed over")
	packet := make(map[string]*string)
	for _, key := range api.PacketKeys() {
		packet[key.Name] = set.String(key.Name, "", key.What)
	}
	packet["without"] = set.String("without", "", "as if the cable of this `UPLINK` were pulled")
	return func(ctx context.Context, _ []string, s streams) error {
		query := make(url.Values)
		for name, value := range packet {
			if *value != "" {
				query.Set(name, *value)
			}
		}
		if query.Get("to") == "" {
			return usagef("which packet? write: uplinkd explain --to 192.0.2.1")
		}
		p, err := api.ParsePacket(query)
		if err != nil {
			return usageError{err}
		}
		e, err := explanation(ctx, *socket, *file, query, p)
		if err != nil {
			return err
		}
		if *asJSON {
			enc := json.NewEncoder(s.out)
			enc.SetIndent("", "  ")
			err = enc.Encode(e)
		} else {
			err = api.WriteExplanation(s.out, e, api.ExplainOptions{Color: colorful(s), All: *all})
		}
		if err == nil && e.Kernel.Asked && !e.Kernel.Agrees {
			err = errKernelDiffers
		}
		return err
	}
}

// explanation asks the daemon, or looks by itself where none runs or a configuration is named.
func explanation(ctx context.Context, socket, file string, query url.Values, p explain.Packet) (api.Explanation, error) {
	if file == "" {
		e, err := dial(socket).Explain(ctx, query)
		if !errors.Is(err, api.ErrNotRunning) {
			return e, asUsage(err, api.ErrBadPacket)
		}
	}
	e, err := offline.Explain(configFile(file), p, query.Get("without"))
	return e, asUsage(err, explain.ErrPacket)
}

// asUsage makes an error that is the caller's mistake end with exit code 2.
func asUsage(err, mistake error) error {
	if errors.Is(err, mistake) {
		return usageError{err}
	}
	return err
}
