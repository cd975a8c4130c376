package kernel_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules/encap"
)

func TestDropsOfInvalidPacketsAreFoundInWhateverForm(t *testing.T) {
	for rule, want := range map[string]bool{
		"ct state invalid drop":                                    true,
		"ct state invalid counter drop":                            true,
		"ct state { invalid, untracked } drop":                     true,
		"meta l4proto tcp ct state invalid log prefix \"x\" drop":  true,
		"ct state invalid,untracked drop":                          true,
		"ct state invalid reject":                                  true,
		"ct state vmap { established : accept, invalid : drop }":   true,
		"ct state vmap { established : accept, invalid : accept }": false,
		"ct state invalid accept":                                  false,
		"ct state established accept":                              false,
		"ct state new drop":                                        false,
		"ct mark 1 drop":                                           false,
		"tcp dport 22 drop":                                        false,
	} {
		t.Run(rule, func(t *testing.T) {
			namespace(t)
			sh(t, fmt.Sprintf("nft add table inet fw; nft 'add chain inet fw forward { type filter hook forward priority 0; }'; nft 'add rule inet fw forward %s'", rule))
			drops, err := open(t).InvalidDrops()
			if err != nil {
				t.Fatal(err)
			}
			var expected []kernel.InvalidDrop
			if want {
				expected = []kernel.InvalidDrop{{Family: "inet", Table: "fw", Chain: "forward", Handle: 2, Counted: strings.Contains(rule, "counter")}}
			}
			for i := range drops {
				drops[i].Handle = 2
			}
			if diff := cmp.Diff(expected, drops); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidPacketsAreCounted(t *testing.T) {
	namespace(t)
	sh(t, "nft 'table inet fw { chain o { type filter hook output priority 0; ct state invalid counter; }; }'")
	k := open(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const synFIN = 3
	for want := range uint64(3) {
		if got, err := k.InvalidPackets(); err != nil || got != 2*want { // on its way out, and on its way in
			t.Errorf("%d, %v; want %d", got, err, 2*want)
		}
		segment := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, synFIN, 16, 0, 0, 0, 0, 0}
		if err := unix.Sendto(fd, segment, 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatTheKernelCannotDoIsFoundByTrying(t *testing.T) {
	namespace(t)
	before := sh(t, "ip -o link")
	missing, err := kernel.MissingFeatures(numbers, []*encap.Kind{{Name: "veth"}, {Name: "nosuchtunnel", Module: "nosuchmodule"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) != 1 || missing[0].What != "nosuchtunnel tunnels" || missing[0].Module != "nosuchmodule" || missing[0].Err == nil {
		t.Errorf("missing: %+v", missing)
	}
	if after := sh(t, "ip -o link"); after != before {
		t.Errorf("trying left traces:\n%s", after)
	}
}
