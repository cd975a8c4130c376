package main

import (
	"slices"
	"testing"
)

func TestTheGuestGetsWhatTestsNeedOfTheEnvironment(t *testing.T) {
	env := environment([]string{"HOME=/root", "PATH=/opt/x", "SECRET=s", "GOMAXPROCS=2", "UPLINKD_X=1", "LANG=C"})
	want := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "GOMAXPROCS=2", "UPLINKD_X=1", "LANG=C"}
	if !slices.Equal(env, want) {
		t.Errorf("got %q", env)
	}
}
