package kernel_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// Tables come and go, by us and by others; what was counted stays, and never counts twice.
func TestFlowsAreCountedOverTheTables(t *testing.T) {
	namespace(t)
	sh(t, router+"for n in 1 2 3 4 5 6 7 8 9; do ip neighbour replace 198.51.100.$n lladdr 02:00:00:00:01:01 dev wan1; done")
	k := open(t)
	c := config()
	var recorded rules.Recorded
	apply := func() { converge(t, k, c, &recorded, verdicts(rules.Good, rules.Good)) }
	port := 5000
	begin := func(flows int) {
		t.Helper()
		for range flows {
			port++
			conn, err := net.Dial("udp4", fmt.Sprint("198.51.100.1:", port))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 { // one flow, whatever it sends
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			_ = conn.Close()
		}
	}
	expect := func(when string, want uint64) {
		t.Helper()
		flows, err := k.Flows()
		if err != nil || flows["fiber"].Out != want || flows["lte"].Out != 0 {
			t.Errorf("%s: %+v, %v; want %d by fiber", when, flows, err, want)
		}
	}
	expect("before there is a table", 0)
	apply()
	begin(5)
	expect("in the first table", 5)
	c.Uplinks[0].IPv4.Masquerade = false
	begin(2)
	apply() // another table
	begin(1)
	expect("in the second", 8)
	sh(t, "nft reset counters table inet uplinkd")
	expect("when somebody has reset the counters", 8)
	begin(1)
	expect("after somebody has reset the counters", 9)
	sh(t, "nft flush ruleset")
	expect("without a table", 9)
	apply()
	begin(4)
	expect("in the third", 13)
}
