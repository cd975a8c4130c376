package offline

import (
	"fmt"
	"net/netip"
	"strings"
)

// What belongs to a pair besides uplinkd.toml. A test compares this with examples/pair.

// pairSysctl is for /etc/sysctl.d/uplinkd.conf.
const pairSysctl = "# While a role moves, requests go through one router and answers through the other.\nnet.netfilter.nf_conntrack_tcp_be_liberal = 1\n"

const pairFlows = `#!/bin/sh
# /etc/uplinkd/pair-flows, mode 0755: keepalived and uplinkd run it, and conntrackd takes over what the other router has.
d="conntrackd -C /etc/conntrackd/conntrackd.conf"
prepared=/var/lib/uplinkd/prepared # when all was in the kernel, in seconds
case $1 in
primary)
	# What is there already would be deleted first, and packets come by now.
	[ $(($(date +%s) - $(cat $prepared 2>/dev/null || echo 0))) -le 2 ] || $d -c
	$d -f
	$d -R
	$d -B
	;;
prepare) # by uplinkd, again and again until the addresses come
	case $UPLINKD_HANDOVER in
	coming) $d -c && $d -f external && date +%s >$prepared ;;
	abandoned) rm -f $prepared; $d -n ;;
	esac
	;;
backup)
	$d -t
	$d -n
	;;
esac
`

const pairConntrackd = `# /etc/conntrackd/conntrackd.conf of the first router of a pair; the second one has the two addresses the other way round.
Sync {
	Mode FTFW {
		DisableExternalCache Off
	}
	UDP {
		IPv4_address %[1]v
		IPv4_Destination_Address %[2]v
		Port 3780
		Interface %[3]s
	}
}
General {
	LockFile /var/lock/conntrack.lock
	UNIX {
		Path /run/conntrackd.ctl
	}
	# Connections of the routers themselves stay where they are.
	Filter From Userspace {
		Protocol Accept {
			TCP
			UDP
		}
		Address Ignore {
			IPv4_address 127.0.0.1
			IPv4_address %[1]v
			IPv4_address %[2]v
		}
	}
}
`

const pairKeepalived = `# /etc/keepalived/keepalived.conf of the first router of a pair; the second one has the same. See docs/several-routers.md.
global_defs {
	script_user root
	enable_script_security
	vrrp_version 3
	vrrp_garp_master_repeat 2
}

track_file uplinkd {
	file "/var/lib/uplinkd/yield"
	weight -100
	init_file 0
}

# One instance moves everything at once: half a router is worse than none.
vrrp_instance house {
	state BACKUP
	interface %[1]s
	virtual_router_id 7
	priority 100
	advert_int 0.2
	track_file {
		uplinkd
	}
	virtual_ipaddress {
%[2]s	}
	# IPv6: the router that hosts know, and the line's addresses.
	virtual_ipaddress_excluded {
%[3]s	}
%[4]s	notify_master "/etc/uplinkd/pair-flows primary"
	notify_backup "/etc/uplinkd/pair-flows backup"
	notify_fault "/etc/uplinkd/pair-flows backup"
}
`

func (f *pairFound) conntrackd() string { return fmt.Sprintf(pairConntrackd, f.own, f.peer, f.lan) }

func (f *pairFound) keepalived() string {
	var v4, v6, routes strings.Builder
	add := func(address netip.Prefix, device string) {
		to := &v4
		if address.Addr().Is6() {
			to = &v6
		}
		fmt.Fprintf(to, "\t\t%v dev %s\n", address, device)
	}
	add(netip.PrefixFrom(f.virtual, f.network.Bits()), f.lan)
	add(netip.MustParsePrefix(pairRouter6), f.lan)
	for _, name := range f.shared() {
		l := f.lines[name]
		for _, a := range l.addresses {
			add(a, l.device)
		}
		for _, via := range l.gateways {
			to := "default"
			if via.Is6() {
				to = "::/0"
			}
			fmt.Fprintf(&routes, "\t\t%s via %v dev %s metric %d\n", to, via, l.device, 99+f.ids[name])
		}
	}
	moved := ""
	if routes.Len() > 0 {
		moved = "\tvirtual_routes {\n" + routes.String() + "\t}\n"
	}
	return fmt.Sprintf(pairKeepalived, f.lan, v4.String(), v6.String(), moved)
}
