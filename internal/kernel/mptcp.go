package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The generic netlink family of the path manager (linux/mptcp_pm.h).
const (
	mptcpFamily, mptcpVersion = "mptcp_pm", 1

	mptcpAdd, mptcpDel, mptcpGet        = 1, 2, 3 // MPTCP_PM_CMD_ADD_ADDR, DEL_ADDR, GET_ADDR
	mptcpSetLimits, mptcpGetLimits      = 5, 6
	mptcpSetFlags                       = 7
	mptcpAttrAddr                       = 1 // MPTCP_PM_ATTR_ADDR
	mptcpAttrRcvAddAddrs                = 2
	mptcpAttrSubflows                   = 3
	mptcpAddrFamily, mptcpAddrID        = 1, 2 // MPTCP_PM_ADDR_ATTR_*
	mptcpAddr4, mptcpAddr6              = 3, 4
	mptcpAddrFlags, mptcpAddrIndex      = 6, 7
	mptcpFlagSubflow, mptcpFlagBackup   = 1 << 1, 1 << 2
	mptcpPathManagerOfKernel            = "0" // net.mptcp.pm_type
	mptcpEnabledSysctl, mptcpTypeSysctl = "net/mptcp/enabled", "net/mptcp/pm_type"
)

// mptcp reads the path manager.
func (k *Kernel) mptcp() (*rules.MPTCP, error) {
	for name, want := range map[string]string{mptcpEnabledSysctl: "1", mptcpTypeSysctl: mptcpPathManagerOfKernel} {
		value, err := os.ReadFile(filepath.Join(sysctlRoot, name))
		switch text := strings.TrimSpace(string(value)); {
		case errors.Is(err, os.ErrNotExist) && name == mptcpEnabledSysctl:
			return &rules.MPTCP{Impossible: "the kernel has no Multipath TCP"}, nil
		case errors.Is(err, os.ErrNotExist): // before 5.19 there was one path manager
		case err != nil:
			return nil, fmt.Errorf("reading %s: %w", name, err)
		case text != want:
			return &rules.MPTCP{Impossible: fmt.Sprintf("%s is %s", strings.ReplaceAll(name, "/", "."), text)}, nil
		}
	}
	found := &rules.MPTCP{}
	limits, err := k.pathManager(mptcpGetLimits, 0)
	if err != nil {
		return nil, fmt.Errorf("reading limits of Multipath TCP: %w", err)
	}
	found.Subflows, _ = limit(limits, mptcpAttrSubflows)
	list, err := k.pathManager(mptcpGet, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("listing endpoints of Multipath TCP: %w", err)
	}
	for _, m := range list {
		for kind, value := range attributes(m) {
			if kind == mptcpAttrAddr {
				found.Endpoints = append(found.Endpoints, k.decodeEndpoint(value))
			}
		}
	}
	return found, nil
}

func (k *Kernel) decodeEndpoint(m []byte) (e netcfg.Endpoint) {
	for kind, value := range attributes(m) {
		switch {
		case kind == mptcpAddrID && len(value) >= 1:
			e.ID = value[0]
		case kind == mptcpAddr4 || kind == mptcpAddr6:
			e.Addr, _ = netip.AddrFromSlice(value)
		case kind == mptcpAddrFlags && len(value) == 4:
			e.Backup = binary.NativeEndian.Uint32(value)&mptcpFlagBackup != 0
		case kind == mptcpAddrIndex && len(value) == 4:
			e.Device = k.devices.name[int(binary.NativeEndian.Uint32(value))]
		}
	}
	return e
}

// limit finds one of the limits.
func limit(answers [][]byte, which uint16) (n uint32, known bool) {
	for _, m := range answers {
		for kind, value := range attributes(m) {
			if kind == which && len(value) == 4 {
				return binary.NativeEndian.Uint32(value), true
			}
		}
	}
	return 0, false
}

// pathManager sends a command, and returns the attributes of each answer.
func (k *Kernel) pathManager(command uint8, flags int, attrs ...*nl.RtAttr) ([][]byte, error) {
	if k.mptcpID == 0 {
		found, err := k.generic(nl.GENL_ID_CTRL, 0, genericHeader{nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION},
			nl.NewRtAttr(nl.GENL_CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(mptcpFamily)))
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			for kind, value := range attributes(m) {
				if kind == nl.GENL_CTRL_ATTR_FAMILY_ID && len(value) == 2 {
					k.mptcpID = int(binary.NativeEndian.Uint16(value))
				}
			}
		}
	}
	return k.generic(k.mptcpID, flags, genericHeader{command, mptcpVersion}, attrs...)
}

// genericHeader is struct genlmsghdr: a command, a version, and two bytes that are 0. That of package nl has no room for these, and sends
// what lies behind it in memory.
type genericHeader [nl.SizeofGenlmsg]byte

// Len implements nl.NetlinkRequestData.
func (h *genericHeader) Len() int { return len(h) }

// Serialize implements nl.NetlinkRequestData.
func (h *genericHeader) Serialize() []byte { return h[:] }

// generic makes a request of generic netlink, and returns the attributes of each answer.
func (k *Kernel) generic(family, flags int, header genericHeader, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := k.request(family, flags)
	req.AddData(&header)
	for _, a := range attrs {
		req.AddData(a)
	}
	answers, err := req.Execute(unix.NETLINK_GENERIC, 0)
	for i := range answers {
		answers[i] = answers[i][min(nl.SizeofGenlmsg, len(answers[i])):]
	}
	return answers, err
}

// changeEndpoint adds, removes or changes one.
func (k *Kernel) changeEndpoint(command uint8, e netcfg.Endpoint) error {
	a := nl.NewRtAttr(mptcpAttrAddr|unix.NLA_F_NESTED, nil)
	family, kind := uint16(unix.AF_INET), mptcpAddr4
	if e.Addr.Is6() {
		family, kind = unix.AF_INET6, mptcpAddr6
	}
	flags := uint32(mptcpFlagSubflow)
	if e.Backup {
		flags |= mptcpFlagBackup
	}
	a.AddRtAttr(mptcpAddrID, nl.Uint8Attr(e.ID))
	a.AddRtAttr(mptcpAddrFamily, nl.Uint16Attr(family))
	a.AddRtAttr(kind, e.Addr.AsSlice())
	a.AddRtAttr(mptcpAddrFlags, nl.Uint32Attr(flags))
	if command == mptcpAdd {
		a.AddRtAttr(mptcpAddrIndex, nl.Uint32Attr(uint32(k.devices.index[e.Device])))
	}
	_, err := k.pathManager(command, unix.NLM_F_ACK, a)
	return err
}

func (k *Kernel) setSubflows(most uint32) error {
	limits, err := k.pathManager(mptcpGetLimits, 0)
	if err != nil {
		return err
	}
	accepted, _ := limit(limits, mptcpAttrRcvAddAddrs) // is set with it, and stays
	_, err = k.pathManager(mptcpSetLimits, unix.NLM_F_ACK, nl.NewRtAttr(mptcpAttrRcvAddAddrs, nl.Uint32Attr(accepted)), nl.NewRtAttr(mptcpAttrSubflows, nl.Uint32Attr(most)))
	return err
}
