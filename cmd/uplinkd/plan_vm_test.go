//go:build vm

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestVMThePlansOfTunnelsAreWhatTheToolsAccept(t *testing.T) { checkExamples(t, true) }

// wireGuardAndTap is an Ethernet tunnel over WireGuard over fiber, and a far end on a bridge.
const wireGuardAndTap = dualWAN + `
[[uplink]]
name = "vps"
kind = "wireguard"
device = "wg0"
tier = 3
  [uplink.wireguard]
  private_key_file = "KEY"
  listen_port = 51820
  addresses = ["10.0.31.2/24"]
  peers = [ { public_key = "PEER", endpoint = "192.0.2.9:51820", allowed_ips = ["0.0.0.0/0", "10.8.0.0/16"], keepalive = "25s", preshared_key_file = "KEY" } ]
  [uplink.probe]
  targets = ["10.0.31.1"]
[[uplink]]
name = "tap"
kind = "gretap"
device = "gre1"
over = "vps"
tier = 4
  [uplink.gretap]
  local = "10.0.31.2"
  remote = "10.0.31.1"
  key = 7
  [uplink.ipv4]
  method = "static"
  address = "10.99.0.2/24"
  gateway = "10.99.0.1"
  [uplink.ipv6]
  method = "static"
  address = "2001:db8:99::2/64"
  gateway = "2001:db8:99::1"
  [uplink.probe]
  targets = ["10.99.0.1", "2001:db8:99::1"]
[[tunnel]]
kind = "gretap"
device = "far0"
bridge = "br0"
local = "LOCAL"
remote = "192.0.2.10"
`

func TestVMThePlanOfWireGuardAndGRETAPIsWhatRunDoes(t *testing.T) {
	key, peer := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "peer")
	newKey(t, key)
	checkPlanOfTunnels(t, strings.NewReplacer("PEER", newKey(t, peer), "KEY", key).Replace(wireGuardAndTap))
}

// broker is IPv6 in IPv4 over fiber.
const broker = dualWAN + `
[[uplink]]
name = "broker"
kind = "sit"
device = "he0"
over = "fiber"
tier = 3
  [uplink.sit]
  local = "LOCAL"
  remote = "192.0.2.9"
  [uplink.ipv6]
  method = "static"
  address = "2001:db8:99::2/64"
  gateway = "2001:db8:99::1"
  [uplink.probe]
  targets = ["2001:db8:99::1"]
`

func TestVMThePlanOfSITIsWhatRunDoes(t *testing.T) { checkPlanOfTunnels(t, broker) }
