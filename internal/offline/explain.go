package offline

import (
	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/trace"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// Explain says what would become of a packet without a running daemon: by what the kernel holds, and by the
// verdicts that the last daemon kept.
func Explain(configFile string, p explain.Packet, without string) (api.Explanation, error) {
	in, err := open(configFile)
	if err != nil {
		return api.Explanation{}, err
	}
	defer in.kernel.Close()
	x := trace.Tracer{File: configFile, Lines: in.lines, Config: in.cfg, Recorded: in.saved.recorded}
	x.Verdicts = func(paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict {
		return in.saved.monitor.Replay(in.cfg, paths)
	}
	return x.Explain(p, without)
}
