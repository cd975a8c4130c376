// Package kernel is the only place that speaks netlink, nftables, conntrack and sysctl.
//
//	Watch ──> hints: "something changed", nothing more
//	Snapshot ──> rules.Observed: what is there, ours and others'
//	Apply <── []netcfg.Op: small changes, in order
//
// Nothing here decides. A hint may be lost without harm, because whoever is woken reads a whole
// snapshot; a change that fails is reported and found again by the next snapshot.
//
// Message layouts are those of linux/rtnetlink.h, fib_rules.h, if_addr.h, inet_diag.h and
// nfnetlink_conntrack.h. Routes, rules and addresses are encoded here and not by the netlink library,
// because ours need what it leaves out: the kernel-side dump filter, IFA_PROTO, suppress_prefixlength
// with any table, and deletion by every attribute.
package kernel
