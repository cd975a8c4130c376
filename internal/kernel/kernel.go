package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Kernel is the network namespace that it was opened in. But for Flows it is not safe for concurrent use: one goroutine writes to
// the kernel.
type Kernel struct {
	log     *slog.Logger
	numbers rules.Kernel
	sockets map[int]*nl.SocketHandle
	nft     *nftables.Conn
	// transactions is connected to when it is needed first.
	transactions *nftables.Conn
	table        tableCache
	flows        flowCount
	devices      devices // of the last snapshot
	reduced      map[string]*reducedTable
	// wireGuard is connected to when it is needed first.
	wireGuard WireGuard
	// unfiltered says of devices why the kernel refused them an egress filter.
	unfiltered map[string]string
	// routeLister is connected to when it is needed first. Kept are lists of a great many routes; refreshing gives the next one, nil
	// while none is on its way.
	routeLister *routeLister
	kept        map[rules.Family]*routeList
	near        map[rules.Family]*nearRoutes
	watcher     *Watcher // nil: nobody tells of changes
	refreshing  chan refreshed
	mptcpID     int // of the generic netlink family; 0 until it is needed
	offload     struct {
		tried bool
		err   error // nil: there are flowtables
	}
}

// Open connects to the kernel of the calling thread's network namespace.
func Open(numbers rules.Kernel, log *slog.Logger) (*Kernel, error) {
	k := &Kernel{log: log, numbers: numbers, sockets: make(map[int]*nl.SocketHandle), reduced: make(map[string]*reducedTable), unfiltered: make(map[string]string), kept: make(map[rules.Family]*routeList),
		near: make(map[rules.Family]*nearRoutes)}
	for _, proto := range []int{unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER, unix.NETLINK_INET_DIAG, unix.NETLINK_GENERIC} {
		socket, err := nl.Subscribe(proto)
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("opening netlink socket (family %d): %w", proto, err)
		}
		k.sockets[proto] = &nl.SocketHandle{Socket: socket}
		// The kernel explains refusals in words; older kernels do not know the option.
		_ = socket.SetExtAck(true)
	}
	for _, conn := range []**nftables.Conn{&k.nft, &k.flows.conn} {
		var err error
		if *conn, err = nftables.New(nftables.AsLasting()); err != nil {
			k.Close()
			return nil, fmt.Errorf("opening nftables: %w", err)
		}
	}
	return k, nil
}

// Close gives the sockets back.
func (k *Kernel) Close() {
	for _, s := range k.sockets {
		s.Close()
	}
	for _, conn := range []*nftables.Conn{k.nft, k.transactions, k.flows.conn} {
		if conn != nil {
			_ = conn.CloseLasting()
		}
	}
	k.wireGuard.Close()
	k.takeRefreshed(true)
	if k.routeLister != nil {
		_ = k.routeLister.conn.close()
	}
}

// request makes a netlink request on the socket that was opened with k.
func (k *Kernel) request(msgType, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(msgType, flags)
	req.Sockets = k.sockets
	return req
}

// Apply carries out the changes in order. A change that fails does not keep the others from being
// tried; the joined errors are a netcfg.Refusal for each one that failed.
func (k *Kernel) Apply(ops []netcfg.Op) error {
	var failed []error
	for _, op := range ops {
		if err := k.apply(op); err != nil {
			failed = append(failed, &netcfg.Refusal{Op: op, Err: err})
		}
	}
	return errors.Join(failed...)
}

func (k *Kernel) apply(op netcfg.Op) error {
	switch op := op.(type) {
	case netcfg.AddAddr:
		return k.changeAddr(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, op.AddrAssignment)
	case netcfg.ChangeAddr:
		return k.changeAddr(unix.RTM_NEWADDR, unix.NLM_F_REPLACE, op.AddrAssignment)
	case netcfg.DelAddr:
		return ignoreNotFound(k.changeAddr(unix.RTM_DELADDR, 0, op.AddrAssignment))
	case netcfg.PutRoute:
		flags := unix.NLM_F_CREATE
		if !op.Prepend {
			flags |= unix.NLM_F_REPLACE
		}
		return k.changeRoute(unix.RTM_NEWROUTE, flags, op.Route)
	case netcfg.DelRoute:
		return ignoreNotFound(k.changeRoute(unix.RTM_DELROUTE, 0, op.Route))
	case netcfg.AddRule:
		err := k.changeRule(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, op.Rule)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	case netcfg.DelRule:
		return ignoreNotFound(k.changeRule(unix.RTM_DELRULE, 0, op.Rule))
	case netcfg.PutTable:
		return k.putTable(op.Table)
	case netcfg.PutPolicies:
		return k.putPolicies(op)
	case netcfg.SetGroup:
		return k.setLink(op.Device, 0, 0, nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(op.Group)))
	case netcfg.SetHardware:
		return k.setHardware(op)
	case netcfg.PutEgress:
		return k.putEgress(op)
	case netcfg.DelEgress:
		return ignoreNotFound(k.delEgress(op))
	case netcfg.SetSysctl:
		return writeSysctl(op.Name, op.Value)
	case netcfg.AddTunnel:
		return k.addTunnel(op)
	case netcfg.DelTunnel:
		return ignoreNotFound(k.removeLink(op.Device))
	case netcfg.SetMTU:
		return k.setLink(op.Device, 0, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(op.MTU))))
	case netcfg.SetMaster:
		return k.setMaster(op)
	case netcfg.SetUp:
		return k.setLink(op.Device, unix.IFF_UP, unix.IFF_UP)
	case netcfg.SetWireGuard:
		return k.wireGuard.Set(op)
	case netcfg.AddEndpoint:
		return k.changeEndpoint(mptcpAdd, op.Endpoint)
	case netcfg.ChangeEndpoint:
		return k.changeEndpoint(mptcpSetFlags, op.Endpoint)
	case netcfg.DelEndpoint:
		return ignoreNotFound(k.changeEndpoint(mptcpDel, op.Endpoint))
	case netcfg.SetSubflows:
		return k.setSubflows(op.Limit)
	case netcfg.AddProxyNeighbour:
		return k.changeProxyNeighbour(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, op.ProxyNeighbour)
	case netcfg.DelProxyNeighbour:
		return ignoreNotFound(k.changeProxyNeighbour(unix.RTM_DELNEIGH, 0, op.ProxyNeighbour))
	}
	return fmt.Errorf("unknown change %T", op)
}

// ignoreNotFound takes the absence of what shall be absent for success.
func ignoreNotFound(err error) error {
	if isNotFound(err) {
		return nil
	}
	return err
}

// isNotFound reports whether the kernel says that the object of a request does not exist.
func isNotFound(err error) bool {
	for _, notFound := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.EADDRNOTAVAIL} {
		if errors.Is(err, notFound) {
			return true
		}
	}
	return false
}

func (k *Kernel) setLink(device string, flags, change uint32, attrs ...*nl.RtAttr) error {
	req := k.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = flags, change
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(device)))
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// sysctlRoot is where the kernel shows its parameters.
const sysctlRoot = "/proc/sys"

// readSysctls reads the parameters that exist.
func readSysctls(names []string) map[string]string {
	values := make(map[string]string, len(names))
	for _, name := range names {
		if _, known := values[name]; known {
			continue
		}
		if value, err := readSysctl(name); err == nil {
			values[name] = value
		}
	}
	return values
}

// readSysctl reads a parameter. Each look reads some ten of them for each uplink, and os.ReadFile makes eight system
// calls of the three that are needed.
func readSysctl(name string) (string, error) {
	fd, err := unix.Open(filepath.Join(sysctlRoot, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	var value [256]byte // the kernel gives all of it at once, or it is none of those that we know
	n, err := unix.Read(fd, value[:])
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(value[:n])), nil
}

func writeSysctl(name, value string) error {
	return os.WriteFile(filepath.Join(sysctlRoot, name), []byte(value+"\n"), 0o644)
}
