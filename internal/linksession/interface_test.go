package linksession_test

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

func TestOneDeviceIsWhatTheListOfAllSays(t *testing.T) {
	all, err := net.Interfaces()
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	for _, want := range all {
		want.Flags = 0
		named, err := linksession.InterfaceByName(want.Name)
		if diff := cmp.Diff(&want, named); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", want.Name, err, diff)
		}
		numbered, err := linksession.InterfaceByIndex(want.Index)
		if diff := cmp.Diff(&want, numbered); err != nil || diff != "" {
			t.Errorf("%d: %v (-want +got):\n%s", want.Index, err, diff)
		}
	}
	if i, err := linksession.InterfaceByName("absent9"); err == nil {
		t.Errorf("a device that is absent: %+v", i)
	}
	if i, err := linksession.InterfaceByIndex(1 << 30); err == nil {
		t.Errorf("an index that is nobody's: %+v", i)
	}
}
