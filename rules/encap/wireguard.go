package encap

// WireGuard is the kind whose device has peers, which are told to it by other means (rules.WireGuard).
const WireGuard = "wireguard"

// wireGuard adds UDP and 32 bytes of its own, and the kernel reckons with IPv6 outside (MESSAGE_MINIMUM_LENGTH of
// drivers/net/wireguard/messages.h, wg_setup of device.c).
var wireGuard = Kind{Name: WireGuard, Module: "wireguard", header: func(*Params) int { return 8 + 32 }}
