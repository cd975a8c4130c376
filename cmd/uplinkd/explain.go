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
	for _, o := range []struct{ name, what string }{
		{"to", "`ADDRESS` that the packet is for; required"},
		{"from", "`ADDRESS` that it is from; without it, the kernel chooses for a local socket"},
		{"iif", "`DEVICE` that it came in by; without it, this machine makes the packet"},
		{"oif", "`DEVICE` that its socket is bound to"},
		{"mark", "packet `MARK`"},
		{"proto", "`PROTOCOL`: udp unless given, tcp, icmp, icmpv6 or a number"},
		{"sport", "source `PORT`"},
		{"dport", "destination `PORT`"},
		{"uid", "number of the `USER` that owns the socket"},
		{"tos", "`TOS` field of the header"},
		{"without", "as if the cable of this `UPLINK` were pulled"},
	} {
		packet[o.name] = set.String(o.name, "", o.what)
	}
	return func(ctx context.Context, _ []string, s streams) error {
		query := make(url.Values)
		for name, value := range packet {
			if *value != "" {
				query.Set(name, *value)
			}
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
