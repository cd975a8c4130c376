package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/uplinkd/uplinkd/internal/importer"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestWhatIsImportedFromMwan3RoutesAsItDid runs what becomes of a configuration of mwan3: a spare, one destination by the spare alone and
// refused without it, and UDP by the spare as long as that works.
func TestWhatIsImportedFromMwan3RoutesAsItDid(t *testing.T) {
	t.Parallel()
	const mwan3 = `
config interface 'wan'
	option enabled '1'
	list track_ip '192.0.2.1'
config interface 'wanb'
	option enabled '1'
	option track_method 'nslookup'
	list track_ip '192.0.2.53'
config member 'wan_m1'
	option interface 'wan'
config member 'wan_m2'
	option interface 'wan'
	option metric '2'
config member 'wanb_m1'
	option interface 'wanb'
config member 'wanb_m2'
	option interface 'wanb'
	option metric '2'
config policy 'wan_wanb'
	list use_member 'wan_m1'
	list use_member 'wanb_m2'
config policy 'wanb_wan'
	list use_member 'wanb_m1'
	list use_member 'wan_m2'
config policy 'wanb_only'
	list use_member 'wanb_m1'
config rule 'closed'
	option dest_ip '192.0.2.2'
	option use_policy 'wanb_only'
config rule 'datagrams'
	option proto 'udp'
	option family 'ipv4'
	option use_policy 'wanb_wan'
config rule 'default_rule'
	option dest_ip '0.0.0.0/0'
	option use_policy 'wan_wanb'
`
	const network = "config interface 'wan'\n\toption device 'wan1'\n\toption proto 'dhcp'\nconfig interface 'wanb'\n\toption device 'wan2'\n\toption proto 'dhcp'\n"
	result, err := importer.Convert("mwan3", []importer.File{{Name: "mwan3", Data: []byte(mwan3)}}, &importer.File{Name: "network", Data: []byte(network)})
	if err != nil || !result.Complete() {
		t.Fatalf("%v\n%s", err, result.TOML)
	}
	r := newRouter(t, lab.Options{}, result.TOML)
	if err := errors.Join(r.Host("inet").ServeUDPEcho(context.Background(), addrPort(selected4)), r.Host("inet").ServeTCPEcho(context.Background(), addrPort(selected4))); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await("the uplinks to be up", func() error {
		for _, u := range r.status().Uplinks {
			if u.IPv4.State != uplink.Up {
				return fmt.Errorf("%s is %s", u.Name, u.IPv4.State)
			}
		}
		return nil
	})
	r.awaitAll([]want{{"lan", "tcp", other4, "fiber"}, {"lan", "udp", other4, "lte"}, {"lan", "tcp", selected4, "lte"}, {"router", "udp", other4, "lte"}})
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitAll([]want{{"lan", "tcp", other4, "fiber"}, {"lan", "udp", other4, "fiber"}, {"lan", "tcp", selected4, ""}, {"lan", "udp", selected4, ""}})
}
