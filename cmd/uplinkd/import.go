package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/importer"
	"github.com/uplinkd/uplinkd/internal/offline"
)

func importCommand(set *flag.FlagSet) runner {
	network := set.String("network", "", "OpenWrt's network `FILE`, /etc/config/network, which says what devices interfaces have")
	return func(_ context.Context, words []string, s streams) error { return runImport(words, *network, s) }
}

// runImport prints the configuration on the one stream, and what is not as it was on the other.
func runImport(words []string, network string, s streams) error {
	if len(words) < 2 || !slices.Contains(importer.Systems, words[0]) {
		return usagef("import takes the system, %s, and its files", strings.Join(importer.Systems, ", "))
	}
	result, err := offline.Import(words[0], words[1:], network)
	for _, r := range result.Remarks {
		if r.Kind != importer.Kept {
			fmt.Fprintln(s.err, r)
		}
	}
	var path *fs.PathError
	switch {
	case errors.Is(err, importer.ErrUnusable), errors.As(err, &path):
		return usageError{err}
	case err != nil:
		return err
	}
	if _, err := io.WriteString(s.out, result.TOML); err != nil {
		return err
	}
	if !result.Complete() {
		return exitError{exitWarnings}
	}
	return nil
}
