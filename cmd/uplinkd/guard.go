package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/uplinkd/uplinkd/internal/offline"
)

func guardCommand(set *flag.FlagSet) runner {
	file := configFlag(set)
	return func(ctx context.Context, _ []string, s streams) error {
		changes, err := offline.Guard(configFile(*file))
		for _, op := range changes {
			fmt.Fprintln(s.out, op.Command())
		}
		if err == nil && len(changes) == 0 {
			fmt.Fprintln(s.out, "# no kill switch is left to be closed")
		}
		return err
	}
}
