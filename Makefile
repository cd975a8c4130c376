# The one door: what a developer runs, CI runs. `make check` is exactly CI's job.

GO       ?= go
BIN      := bin/uplinkd
# Pure packages, then those that need the kernel (they make namespaces of their own).
E2E      := ./cmd/uplinkd
PKGS     := $(shell $(GO) list ./... | grep -v '/cmd/uplinkd$$')
# What the lab needs, and what the tests need besides: package:command.
LABDEPS  := iproute2:ip nftables:nft
TESTDEPS := $(LABDEPS) conntrack:conntrack iptables:iptables-nft isc-dhcp-server:dhcpd radvd:radvd systemd:systemd-analyze procps:sysctl \
	util-linux:nsenter iperf3:iperf3 kea-dhcp6-server:kea-dhcp6 dibbler-server:dibbler-server wide-dhcpv6-server:dhcp6s chromium:chromium \
	chromium-driver:chromedriver prometheus:promtool man-db:man zsh:zsh fish:fish cpio:cpio dnsmasq-base:dnsmasq unbound:unbound \
	dbus-daemon:dbus-daemon dbus-bin:dbus-send systemd-resolved:/usr/local/lib/uplinkd-deps/systemd-resolved
# What has tests of its own in a virtual machine: TestVM*, with the build tag vm. The dormitory's scene wants five minutes
# and a machine that does nothing else, the plans of the examples, PPPoE, the program that carries a tunnel and the sites
# one to three each: make vm VMPKGS=./cmd/uplinkd VMSKIP=none.
VMPKGS   := ./internal/kernel ./cmd/uplinkd
VMSKIP   ?= ^TestVM(ADormitory|ThePlansOf|APPPoE|AProgram|ThreeSites|ThePlanOfSIT|EachLevel|SitesByOSPF|Policies)
# Scenes with other programs that mostly wait: make field.
FIELD    := ^Test(DnsmasqFollows|UnboundFollows|ResolvedFollows|OneAddressOnTwoUplinksIsTwo)
FUZZTIME ?= 10s
NETFUZZTIME ?= 60s
BENCH    ?= .
SOAK_SEED ?= 1
TARGETS  := linux/amd64 linux/arm64 linux/arm linux/mipsle linux/riscv64

.PHONY: build demo deps test e2e field vm fuzz bench soak simulate lint cross check install clean

build: ## build bin/uplinkd: static, stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BIN) ./cmd/uplinkd

demo: build ## a dual-WAN world, live: breaks a provider and shows what happened
	@scripts/deps $(LABDEPS)
	$(BIN) lab run --demo

deps: ## install the Debian packages that the tests need
	@scripts/deps $(TESTDEPS)

test: deps ## every package but the end-to-end tests, with the race detector
	$(GO) test -race -timeout 10m $(PKGS)

e2e: deps ## the daemon in worlds of network namespaces, a data race ends it
	GORACE=halt_on_error=1 $(GO) test -race -timeout 25m -parallel 3 -skip '$(FIELD)' $(E2E)

field: deps ## scenes with other programs that take longer
	$(GO) test -timeout 25m -parallel 3 -run '$(FIELD)' $(E2E)

vm: deps ## what needs WireGuard and GRE, on a Debian kernel in a virtual machine
	@scripts/deps qemu-system-x86:qemu-system-x86_64 kmod:depmod wireguard-tools:wg iputils-ping:ping ppp:pppd pppoe:pppoe-server $(if $(filter none,$(VMSKIP)),frr:/usr/lib/frr/ospfd)
	$(GO) vet -tags vm $(VMPKGS) ./internal/vm/...
	$(GO) test -tags vm -timeout 5m ./internal/vm/...
	CGO_ENABLED=0 $(GO) build -o bin/vmexec ./internal/vm/vmexec
	$(GO) test -tags vm -p 1 -timeout 10m -exec $(CURDIR)/bin/vmexec -run '^TestVM' -skip '$(VMSKIP)' $(VMPKGS)

fuzz: ## each fuzz target for FUZZTIME, those of packets from a link for NETFUZZTIME
	@scripts/fuzz $(FUZZTIME) $(NETFUZZTIME)

bench: deps ## figures: failover times, plan and probe costs
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 60m $(E2E)
	$(GO) test -run '^$$' -bench '$(BENCH)' $(PKGS)

soak: deps ## 500 sequences of faults, 500 times kill -9, 260 damaged starts, 50 lost admins, some 80 minutes; SOAK_SEED=2 for others
	UPLINKD_SEQUENCES=250 UPLINKD_KILLS=500 UPLINKD_CONFIRMS=50 UPLINKD_DAMAGED=200 UPLINKD_MISTAKES=60 UPLINKD_SEED=$(SOAK_SEED) $(GO) test -v -timeout 150m \
		-run "^(TestFaultSequences|TestKilledAtAnyInstantItLosesNoPacket|TestAReloadThatCutsTheAdminOffIsTakenBack|TestTheLANIsOnlineWhatever.*)$$" $(E2E)

simulate: ## how fast and how calm judging is, in virtual time; fails when a bar is missed
	$(GO) run ./uplink/simulate

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

install: build ## into /usr/local, with a systemd unit, manual and completion
	install -D -m 0755 $(BIN) $(DESTDIR)/usr/local/sbin/uplinkd
	install -D -m 0644 examples/uplinkd.service $(DESTDIR)/etc/systemd/system/uplinkd.service
	install -d -m 0755 $(DESTDIR)/etc/uplinkd $(DESTDIR)/usr/local/share/man/man8 $(DESTDIR)/usr/local/share/bash-completion/completions \
		$(DESTDIR)/usr/local/share/zsh/site-functions $(DESTDIR)/usr/local/share/fish/vendor_completions.d
	$(BIN) man > $(DESTDIR)/usr/local/share/man/man8/uplinkd.8
	$(BIN) completion bash > $(DESTDIR)/usr/local/share/bash-completion/completions/uplinkd
	$(BIN) completion zsh > $(DESTDIR)/usr/local/share/zsh/site-functions/_uplinkd
	$(BIN) completion fish > $(DESTDIR)/usr/local/share/fish/vendor_completions.d/uplinkd.fish

clean:
	rm -rf bin
