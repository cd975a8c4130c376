package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// launchReadOnly starts the daemon where /proc/sys cannot be written to, as in a container.
func (r *router) launchReadOnly() {
	r.Helper()
	self, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	daemon := r.Host("router").Command(context.Background(), "unshare", "-m", "sh", "-ec", `mount -o bind,ro /proc/sys /proc/sys; exec "$@"`, "sh",
		self, "run", "--log", "debug", "-c", r.config)
	daemon.Env = append(os.Environ(), actAsProgram+"=1")
	r.launchCommand(daemon)
}

func TestWhereNoParameterCanBeSetThatIsNamedAndFlowsMoveAllTheSame(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.launchReadOnly()
	r.await("the daemon to converge", r.converged)
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	if err := r.hasProblem("sysctl-refused"); err != nil {
		t.Error(err)
	}
	stream, _ := r.streamFrom("lan", "192.0.2.1:7")
	r.await("the stream to use fiber", over(stream, "fiber"))
	own := r.echoConnection(t, "router", "192.0.2.1:7")
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.await("the stream to move to lte", over(stream, "fiber", "lte"))
	if err := own(); err == nil {
		t.Error("the router's own connection by the dead provider still pretends to work")
	}
}

// One provider's router is an address of ours: it is down, and the others do not notice.
func TestAGatewayOfNoUseCostsItsOwnUplinkAlone(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN+`
[[uplink]]
name = "third"
device = "wan9"
tier = 3
  [uplink.ipv4]
  method = "static"
  address = "10.66.0.50/24"
  gateway = "10.66.0.1"
  [uplink.ipv6]
  method = "off"
`+targets)
	r.sh("router", "ip link add wan9 type veth peer name far9; ip link set far9 up; ip address add 10.66.0.1/32 dev lan0") // later than the file was written
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.await("the third to be down for want of a gateway", func() error { return r.lacksGateway("third") })
	if err := r.hasProblem("unusable-gateway"); err != nil {
		t.Error(err)
	}
	stream, _ := r.streamFrom("lan", "192.0.2.1:7")
	r.await("the stream to use fiber", over(stream, "fiber"))
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.await("the stream to move to lte", over(stream, "fiber", "lte"))
	r.await("the daemon to converge", r.converged)
}

// lacksGateway checks that an uplink is down in IPv4 because it has no gateway.
func (r *router) lacksGateway(name string) error {
	u, err := r.uplinkStatus(name)
	if err == nil && (u.IPv4.State != uplink.Down || u.IPv4.Code != uplink.CodeNoGateway) {
		return fmt.Errorf("it is %s: %s", u.IPv4.State, u.IPv4.Reason)
	}
	return err
}
