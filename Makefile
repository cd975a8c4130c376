# The one door: what a developer runs, CI runs. `make check` is exactly CI's job.

# sudo leaves the usual places of Go out of PATH.
GO       ?= $(or $(shell command -v go),$(firstword $(wildcard /usr/local/go/bin/go /usr/lib/go/bin/go /snap/bin/go)),go)
BIN      ?= bin/uplinkd
# v1.2.3 where there is no repository that Go could ask.
RELEASE  ?=
# Pure packages, then those that need the kernel (they make namespaces of their own).
E2E      := ./cmd/uplinkd
PKGS     = $(shell $(GO) list ./... | grep -v '/cmd/uplinkd$$')
# What the lab needs, and what the tests need besides: package:command.
LABDEPS  := iproute2:ip nftables:nft
TESTDEPS := $(LABDEPS) iputils-ping:ping conntrack:conntrack iptables:iptables-nft isc-dhcp-server:dhcpd isc-dhcp-client:dhclient radvd:radvd systemd:systemd-analyze procps:sysctl \
	util-linux:nsenter iperf3:iperf3 kea-dhcp6-server:kea-dhcp6 dibbler-server:dibbler-server wide-dhcpv6-server:dhcp6s chromium:chromium \
	chromium-driver:chromedriver prometheus:promtool man-db:man zsh:zsh fish:fish cpio:cpio dnsmasq-base:dnsmasq unbound:unbound mosquitto:mosquitto mosquitto-clients:mosquitto_sub \
	ddclient:ddclient miniupnpd-nftables:miniupnpd tayga:tayga \
	dbus-daemon:dbus-daemon dbus-bin:dbus-send systemd-resolved:/usr/local/lib/uplinkd-deps/systemd-resolved \
	network-manager:/usr/local/lib/uplinkd-deps/NetworkManager
# What has tests of its own in a virtual machine: TestVM*, with the build tag vm. The dormitory's scene wants five minutes
# and a machine that does nothing else, pppd and strongSwan five each, the plans of the examples, PPPoE, the program that carries a
# tunnel and the sites one to three each: make vm VMPKGS=./cmd/uplinkd VMSKIP=none.
VMPKGS   := ./internal/kernel ./cmd/uplinkd
VMSKIP   ?= ^TestVM(ADormitory|WhatAFlowtable|ThePlansOf|APPPoE|AProgram|ThreeSites|ThePlanOf(SIT|6RD)|AHouseHasIPv6By6RD|EachLevel|SitesBy|Policies|APhone|AllGoes|PeersOfAServer|TheClock|Init|Beside|StrongSwan)
# Scenes that mostly wait, with other programs or for leases to end: make field. What these need besides.
FIELDDEPS := keepalived:keepalived ufw:ufw firewalld:firewall-cmd shorewall:shorewall fail2ban:fail2ban-client dhcpcd-base:dhcpcd wide-dhcpv6-client:dhcp6c openvpn:openvpn \
	frr:/usr/lib/frr/ospfd bird2:bird babeld:babeld conntrackd:conntrackd ifupdown:ifup netavark:/usr/lib/podman/netavark libvirt-daemon:libvirtd \
	libvirt-clients:virsh wireguard-go:wireguard wireguard-tools:wg-quick docker.io:dockerd prometheus-alertmanager:amtool ansible-core:ansible-playbook \
	openssh-server:sshd openssh-client:ssh netplan.io:netplan
FIELD    := ^Test(Beside|AFleet|AnsibleChanges|APairOfRouters|ListsAndDomains|ADownloadByMultipath|NewFlows(TakeTheFaster|SpillOver)|TheReportHas|AKillSwitchByAList|ALineThatStaysDead|DnsmasqFollows|UnboundFollows|ResolvedFollows|OneAddressOnTwoUplinksIsTwo|ADefaultOfARival|APointToPointLine|ALeaseThatEnds|TwinsWith|TheChartsMove|TheDashboard(Fits|Says|Explains|Serves|Stays|Tells)|AHouseWithoutIPv6|ForwardedPortsFollow|ALANHasTheNetworkOf|ATranslatedLineFailsOver|TheDrainButton|Upgrades|RoutersOfOtherKinds|ARouterBehindTheLANFollows|TheCommandsOfTroubleshooting|ARawIPModem)
FUZZTIME ?= 10s
NETFUZZTIME ?= 60s
BENCH    ?= .
SOAK_SEED ?= 1
TARGETS  := linux/amd64 linux/arm64 linux/arm linux/mipsle linux/riscv64

.PHONY: build demo deps test e2e field vm screenshots axe fuzz bench bench-peers soak simulate simulate-year lint cross check packages packages-test release install uninstall clean

build: ## build bin/uplinkd: static, stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w$(if $(RELEASE), -X main.release=$(RELEASE))' -o $(BIN) ./cmd/uplinkd

demo: build ## a dual-WAN world, live: breaks a provider and shows what happened
	@scripts/deps $(LABDEPS)
	$(BIN) lab run --demo

deps: ## install the Debian packages that the tests need
	@scripts/deps $(TESTDEPS)

test: deps ## every package but the end-to-end tests, with the race detector
	$(GO) test -race -timeout 10m $(PKGS)

e2e: deps ## the daemon in worlds of network namespaces, a data race ends it, so that no program waits a second for one at its exit
	$(GO) mod download
	GORACE="halt_on_error=1 atexit_sleep_ms=0" $(GO) test -race -timeout 25m -parallel 3 -skip '$(FIELD)' $(E2E)

field: deps ## scenes that take longer, and those beside other programs
	@scripts/deps $(FIELDDEPS)
	$(GO) test -timeout 45m -parallel 3 -run '$(FIELD)' $(E2E)

vm: deps ## what needs WireGuard and GRE, on a Debian kernel in a virtual machine
	@scripts/deps qemu-system-x86:qemu-system-x86_64 kmod:depmod wireguard-tools:wg iputils-ping:ping ppp:pppd pppoe:pppoe-server $(if $(filter none,$(VMSKIP)),frr:/usr/lib/frr/ospfd babeld:babeld charon-systemd:charon-systemd strongswan-swanctl:swanctl)
	$(GO) vet -tags vm $(VMPKGS) ./internal/vm/...
	$(GO) test -tags vm -timeout 5m ./internal/vm/...
	CGO_ENABLED=0 $(GO) build -o bin/vmexec ./internal/vm/vmexec
	$(GO) test -tags vm -p 1 -parallel 1 -timeout $(if $(filter none,$(VMSKIP)),90m,10m) -exec $(CURDIR)/bin/vmexec -run '^TestVM' -skip '$(VMSKIP)' $(VMPKGS)

screenshots: deps ## docs/images anew; DIR=pictures keeps the pictures of every state, width and colour scheme too
	@dir="$(DIR)"; dir="$${dir:-$$(mktemp -d)}" && mkdir -p "$$dir" docs/images && \
	UPLINKD_SCREENSHOTS="$$dir" $(GO) test -count 1 -timeout 10m -run TheDashboardServesEveryone $(E2E) && cp "$$dir"/dashboard*.webp docs/images/

axe: deps ## the dashboard in each state, by axe-core, which npm brings
	@GO=$(GO) scripts/axe

fuzz: ## each fuzz target for FUZZTIME, those of packets from a link for NETFUZZTIME
	@scripts/fuzz $(FUZZTIME) $(NETFUZZTIME)

bench: deps ## figures: failover times, plan and probe costs
	$(GO) test -run '^$$' -bench '$(BENCH)' -skip Peers -benchtime 1x -timeout 90m $(E2E)
	$(GO) test -run '^$$' -bench '$(BENCH)' $(PKGS)

bench-peers: deps ## other programs and this one in the same worlds, some 35 minutes, drawn into bin/peers.svg: docs/benchmarks.md
	@scripts/deps keepalived:keepalived lsm:lsm frr:/usr/lib/frr/bfdd
	@mkdir -p bin
	UPLINKD_PICTURE=$(CURDIR)/bin/peers.svg $(GO) test -run '^$$' -bench Peers -benchtime 1x -timeout 60m $(E2E)

soak: deps ## 500 sequences of faults, 500 times kill -9, 260 damaged starts, 50 lost admins, some 80 minutes; SOAK_SEED=2 for others
	UPLINKD_SEQUENCES=250 UPLINKD_KILLS=500 UPLINKD_CONFIRMS=50 UPLINKD_DAMAGED=200 UPLINKD_MISTAKES=60 UPLINKD_SEED=$(SOAK_SEED) $(GO) test -v -timeout 150m \
		-run "^(TestFaultSequences|TestKilledAtAnyInstantItLosesNoPacket|TestAReloadThatCutsTheAdminOffIsTakenBack|TestTheLANIsOnlineWhatever.*)$$" $(E2E)

simulate: ## how fast and how calm judging is, in virtual time; fails when a bar is missed
	$(GO) run ./uplink/simulate

simulate-year: ## a year of links that lose packets, in virtual time
	$(GO) run ./uplink/simulate -year

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt would change these"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff

cross: ## compile for every platform that is supported
	@for t in $(TARGETS); do echo "build $$t"; GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/uplinkd || exit 1; done

check: deps lint cross test ## all that must be green
	@scripts/beside 'JOBS=1 $(MAKE) fuzz FUZZTIME=5s NETFUZZTIME=30s' '$(MAKE) e2e'
	@$(MAKE) vm

packages: ## .deb, .rpm and .apk for every architecture in dist/; ARCHS="amd64 armhf" for some
	@GO=$(GO) RELEASE=$(RELEASE) packaging/build $(ARCHS)

release: ## RELEASE=v1.2.3: tags what is committed, and builds its packages
	@test -n "$(RELEASE)" || { echo "which? make release RELEASE=v1.2.3" >&2; exit 2; }
	@test -z "$$(git status --porcelain)" || { echo "the tree has changes that are not committed: a release would not have them" >&2; exit 1; }
	git tag -a -m "uplinkd $(RELEASE)" $(RELEASE)
	@GO=$(GO) packaging/build

packages-test: ## the .deb of this machine: lintian, and installed, upgraded, removed and purged in a system of its own
	@scripts/deps lintian:lintian mmdebstrap:mmdebstrap ansible-core:ansible-playbook openssh-client:ssh
	@GO=$(GO) packaging/test
	@GO=$(GO) packaging/tutorial-test
	@GO=$(GO) packaging/order-test
	@GO=$(GO) packaging/ansible-test

# Where install puts things.
DESTDIR  ?=
PREFIX   ?= /usr/local
SERVICE  ?= systemd
# Prints manual and completion: BIN, unless that is for another machine.
TOOL     ?= $(BIN)
sbin     := $(DESTDIR)$(PREFIX)/sbin
share    := $(DESTDIR)$(PREFIX)/share
# Only /usr has its own places for what distributions bring.
system   := $(DESTDIR)$(if $(filter /usr,$(PREFIX)),/usr/lib,/etc)
units    := uplinkd.service uplinkd-guard.service
files    := $(sbin)/uplinkd $(share)/man/man8/uplinkd.8 $(share)/man/man5/uplinkd.toml.5 $(share)/bash-completion/completions/uplinkd \
	$(share)/zsh/site-functions/_uplinkd $(share)/fish/vendor_completions.d/uplinkd.fish \
	$(if $(filter systemd,$(SERVICE)),$(system)/sysusers.d/uplinkd.conf $(units:%=$(system)/systemd/system/%),$(DESTDIR)/etc/init.d/uplinkd)

# A binary that is there is installed as it is: "make build" builds a newer one. The owner of the sources builds it.
$(BIN):
	$(if $(SUDO_USER),sudo -u $(SUDO_USER)) $(MAKE) build GO=$(GO)

install: $(BIN) ## PREFIX=/usr/local, DESTDIR: the binary, a service, manual, completion, and the group uplinkd
	@mkdir -p $(DESTDIR)/etc/uplinkd $(sort $(dir $(files)))
	install -m 0755 $(BIN) $(sbin)/uplinkd
	$(TOOL) man > $(share)/man/man8/uplinkd.8
	$(TOOL) man --config > $(share)/man/man5/uplinkd.toml.5
	$(TOOL) completion bash > $(share)/bash-completion/completions/uplinkd
	$(TOOL) completion zsh > $(share)/zsh/site-functions/_uplinkd
	$(TOOL) completion fish > $(share)/fish/vendor_completions.d/uplinkd.fish
ifeq ($(SERVICE),systemd)
	for u in $(units); do sed 's|/usr/local/sbin|$(PREFIX)/sbin|' examples/$$u > $(system)/systemd/system/$$u || exit 1; done
	install -m 0644 packaging/uplinkd.sysusers $(system)/sysusers.d/uplinkd.conf
	test -n "$(DESTDIR)" || ! command -v systemd-sysusers >/dev/null || systemd-sysusers uplinkd.conf
	test -n "$(DESTDIR)" || [ ! -d /run/systemd/system ] || systemctl daemon-reload
else
	install -m 0755 packaging/alpine/uplinkd.initd $(DESTDIR)/etc/init.d/uplinkd
endif

uninstall: ## stops the daemon, gives back what stood in the kernel, removes what install brought; keeps /etc/uplinkd and /var/lib/uplinkd
	test -n "$(DESTDIR)" || [ ! -d /run/systemd/system ] || systemctl disable --now $(units)
	test -n "$(DESTDIR)" || [ ! -x $(sbin)/uplinkd ] || $(sbin)/uplinkd clean
	rm -f $(files)
	rmdir --ignore-fail-on-non-empty $(DESTDIR)/etc/uplinkd
	test -n "$(DESTDIR)" || [ ! -d /run/systemd/system ] || systemctl daemon-reload

clean:
	rm -rf bin dist
