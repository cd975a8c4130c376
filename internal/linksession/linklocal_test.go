package linksession

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestAddressesAreReadAsTheKernelListsThem(t *testing.T) {
	for line, want := range map[string]string{
		"fe80000000000000585a02fffe000001 02 40 20 80     wan": "fe80::585a:2ff:fe00:1",
		"fe80000000000000585a02fffe000001 02 40 20 00     wan": "fe80::585a:2ff:fe00:1",
		"fe80000000000000585a02fffe000001 02 40 20 44     wan": "fe80::585a:2ff:fe00:1", // optimistic
		"fe80000000000000585a02fffe000001 02 40 20 880    wan": "fe80::585a:2ff:fe00:1",
		"fe80000000000000585a02fffe000001 02 40 20 c0     wan": "", // tentative
		"fe80000000000000585a02fffe000001 02 40 20 88     wan": "", // a duplicate
		"fe80000000000000585a02fffe000001 102 40 20 80    wan": "", // another device
		"20010db8000000000000000000000001 02 40 00 80     wan": "",
		"fe80000000000000585a02fffe0000 02 40 20 80     wan":   "",
		"fe80000000000000585a02fffe000001 xx 40 20 80     wan": "",
		"": "",
	} {
		got := ""
		if usable, err := linkLocals(strings.NewReader(line+"\n"), 2, true); err == nil {
			got = usable[0].String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", strings.TrimSpace(line), got, want)
		}
	}
}

func TestADuplicateIsNamedAndAnAddressInQuestionIsWaitedFor(t *testing.T) {
	const taken, tentative = "fe80000000000000585a02fffe000001 02 40 20 88 wan\n", "fe80000000000000585a02fffe000002 02 40 20 44 wan\n"
	if _, err := linkLocals(strings.NewReader(taken), 2, false); err == nil || errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "duplicate") {
		t.Errorf("taken: %v", err)
	}
	if _, err := linkLocals(strings.NewReader(tentative), 2, false); !errors.Is(err, ErrNotReady) {
		t.Errorf("optimistic, for a sender that may not be: %v", err)
	}
}

func FuzzAddressLine(f *testing.F) {
	f.Add("fe80000000000000000000fffe000301 02 40 20 80     lan0")
	f.Fuzz(func(t *testing.T, line string) {
		if addr, index, _, ok := addressLine(line); ok && (!addr.Is6() || strings.TrimSpace(line) == "") {
			t.Errorf("%q is %v, %d", line, addr, index)
		}
	})
}

func TestAddressesAreSorted(t *testing.T) {
	const two = "fe800000000000000000000000000002 02 40 20 80 wan\nfe800000000000000000000000000001 02 40 20 80 wan\n"
	if usable, err := linkLocals(strings.NewReader(two), 2, false); err != nil || len(usable) != 2 || usable[0] != netip.MustParseAddr("fe80::1") {
		t.Errorf("%v, %v", usable, err)
	}
}
