package main

import (
	"context"
	"encoding/json"
	"flag"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
)

func reportCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	month := set.String("month", "", "the `MONTH`, as in 2026-11; the present one without it")
	asJSON := set.Bool("json", false, "print JSON")
	asCSV := set.Bool("csv", false, "print the outages as comma-separated values")
	asHTML := set.Bool("html", false, "print a page for a browser, which prints well")
	return func(ctx context.Context, _ []string, s streams) error {
		forms := 0
		for _, form := range []bool{*asJSON, *asCSV, *asHTML} {
			if form {
				forms++
			}
		}
		if forms > 1 {
			return usagef("--json, --csv and --html are three forms of one report: choose one")
		}
		if at, err := time.Parse("2006-01", *month); *month != "" && (err != nil || at.Format("2006-01") != *month) {
			return usagef("--month: %q is no month: write 2026-11, for example", *month)
		}
		report, err := dial(*socket).Report(ctx, *month)
		switch {
		case err != nil:
			return err
		case *asJSON:
			enc := json.NewEncoder(s.out)
			enc.SetIndent("", "  ")
			return enc.Encode(report)
		case *asCSV:
			return api.WriteReportCSV(s.out, report)
		case *asHTML:
			return api.WriteReportHTML(s.out, report, time.Local)
		}
		return api.WriteReport(s.out, report, time.Local)
	}
}
