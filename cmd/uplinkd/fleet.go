package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/status"
)

// routerPatience is how long one of several routers may take to answer.
const routerPatience = 5 * time.Second

// fleetView is what status is to show of several routers.
type fleetView struct{ check, json, watch bool }

// statusOfAll asks all routers at once and shows what they say. An error is that one of them does not answer, or what --check found.
func statusOfAll(ctx context.Context, urls []string, view fleetView, s streams) error {
	for {
		all, err := api.AskAll(ctx, urls, routerPatience)
		if errors.Is(err, api.ErrBadURL) {
			return usageError{err}
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if view.check {
			return checkAll(s, all)
		}
		if view.watch && !view.json {
			fmt.Fprint(s.out, "\x1b[H\x1b[2J")
		}
		if err := printAll(s, all, view.json); err != nil {
			return err
		}
		if !view.watch {
			return silentOnes(all)
		}
		if !waitRedraw(ctx) {
			return nil
		}
	}
}

func printAll(s streams, all []api.Router, asJSON bool) error {
	if !asJSON {
		return api.WriteRouters(s.out, all, colorful(s))
	}
	byURL := make(map[string]*api.Router)
	for i := range all {
		byURL[all[i].URL] = &all[i]
	}
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	return enc.Encode(byURL)
}

// silentOnes is the error that makes a script look: one of those that were named does not answer.
func silentOnes(all []api.Router) error {
	for i := range all {
		if all[i].Err != nil {
			return exitError{exitFailed}
		}
	}
	return nil
}

// checkAll prints one line for monitoring: how many are well, and what is the matter with the others. The worst decides.
func checkAll(s streams, all []api.Router) error {
	worst, well := status.AllWell, 0
	var others []string
	for i := range all {
		r := &all[i]
		worst = max(worst, r.Health())
		if r.Health() == status.AllWell {
			well++
			continue
		}
		others = append(others, r.URL+": "+r.Line())
	}
	line := fmt.Sprintf("%d of %d routers are well.", well, len(all))
	fmt.Fprintln(s.out, strings.Join(append([]string{line}, others...), " "))
	return exitOfHealth(worst)
}
