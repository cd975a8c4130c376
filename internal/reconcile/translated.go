package reconcile

import (
	"fmt"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
)

// retranslate has connections begin anew whose translation is not what it would be now: after a provider has renumbered,
// and once after the start, for it may have done so before. The rules that translate stand by then.
func (e *Engine) retranslate(cfg rules.Config, r *Result) []error {
	if !r.Settled {
		return nil
	}
	var failed []error
	for path := range e.translations {
		if _, wanted := r.Report.Translations[path]; !wanted {
			delete(e.translations, path)
		}
	}
	for path, to := range r.Report.Translations {
		if before, known := e.translations[path]; known && slices.Equal(before, to) {
			continue
		}
		n, err := e.o.Kernel.FlushTranslated(path.Family, cfg.Kernel.Mark(path.Uplink), cfg.Kernel.MarkMask, to)
		if err != nil {
			failed = append(failed, fmt.Errorf("renewing translated connections: %w", err))
			continue
		}
		e.translations[path] = to
		if n > 0 {
			e.o.Log.Info("renewed connections of a former translation", "uplink", path.Uplink, "family", path.Family.String(), "connections", n)
		}
	}
	return failed
}
