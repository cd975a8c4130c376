package main

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	dashboardAddress = "127.0.0.1:9275"
	dashboardToken   = "a token of the test's own"
)

// newDashboard builds a world whose daemon listens, with a token unless that is "", and a browser that shows
// its page.
func newDashboard(t *testing.T, token string) (*router, *browser) {
	t.Helper()
	r := newRouter(t, lab.Options{}, "")
	extra := ""
	if token != "" {
		file := filepath.Join(r.dir, "token")
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		extra = fmt.Sprintf("token_file = %q\n", file)
	}
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "listen = \"\"\n", fmt.Sprintf("listen = %q\n%s", dashboardAddress, extra), 1) + dualWAN
	if err := os.WriteFile(r.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	r.sh("router", "ip link set lo up")
	r.start()
	b := newBrowser(t, r.Host("router"))
	b.setViewport(1280, 900, "light")
	b.open("http://" + dashboardAddress + "/")
	return r, b
}

// shows is a script that reports whether an uplink's IPv4 badge has a word.
const shows = `const badge = document.querySelector('[data-name="' + arguments[0] + '"] .state'); return !!badge && badge.textContent === arguments[1]`

func TestTheDashboardShowsANewVerdictAtOnce(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	b.await("lte to be up", shows, "lte", "up")
	if got := b.text("#answer"); !strings.Contains(got, "Online by fiber") {
		t.Errorf("the answer is %q", got)
	}
	// The page notes itself when its badges change.
	b.script(nil, `window.seen = {};
new MutationObserver(() => {
  for (const card of document.querySelectorAll("[data-name]")) {
    const key = card.dataset.name + " " + card.querySelector(".state").textContent;
    window.seen[key] = window.seen[key] || Date.now();
  }
}).observe(document.getElementById("cards"), { subtree: true, childList: true, characterData: true });`)
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	b.await("the page to show fiber down", shows, "fiber", "down")
	b.await("the answer to be lte", `return document.getElementById("answer").textContent.includes("Online by lte")`)
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	b.await("the page to show fiber up", shows, "fiber", "up")
	b.await("the answer to be fiber", `return document.getElementById("answer").textContent.includes("Online by fiber")`)
	var seen map[string]int64
	b.script(&seen, "return window.seen")
	checked := 0
	for _, e := range r.decisions() {
		at, shown := seen[e.Uplink+" "+e.To]
		// suspect and recovering may last for less than one picture.
		if e.Kind != "verdict" || e.Family != "ipv4" || !shown || e.To != string(uplink.Down) {
			continue
		}
		checked++
		if late := time.UnixMilli(at).Sub(e.Time.Time); late > unhurried {
			t.Errorf("%s became %s, and the page showed it %v later", e.Uplink, e.To, late)
		} else {
			t.Logf("%s became %s, and the page showed it %v later", e.Uplink, e.To, late)
		}
	}
	if checked == 0 {
		t.Errorf("no verdict was compared: %v", seen)
	}
	var times []int64
	b.script(&times, `return Array.from(document.querySelectorAll("#events time")).map(t => Date.parse(t.dateTime))`)
	if slices.Reverse(times); !slices.IsSorted(times) {
		t.Errorf("the decisions are not in the order in which they were made: %v", times)
	}
	if log := b.text("#events"); !strings.Contains(log, "fiber ipv4") || !strings.Contains(log, "down") {
		t.Errorf("the decisions are %.400q", log)
	}
}

func TestTheChartsMove(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7"), Interval: 5 * time.Millisecond}
	r.probe(probe)
	const curve = `const p = document.querySelector('[data-name="fiber"] .chart path.ln'); return p ? p.getAttribute("d") : ""`
	b.await("a curve of latency", `const d = (() => { `+curve+` })(); return d.length > 20`)
	var before, after string
	b.script(&before, curve)
	b.await("the curve to move", `const d = (() => { `+curve+` })(); return d !== arguments[0]`, before)
	b.script(&after, curve)
	b.await("traffic to be drawn", `return /↓ [1-9]/.test(document.querySelector('[data-name="fiber"] .charts').textContent)`)
	b.await("a share of the traffic", `return /fiber \d+ %/.test(document.getElementById("legend").textContent)`)
	for _, label := range []string{"1 h", "24 h", "5 min"} { // with the keyboard's arrows, as a radio group has them
		b.script(nil, `document.querySelector("#ranges input:checked").focus()`)
		b.keys("#ranges input:checked", "\ue014")
		b.await("the range "+label, `return document.querySelector("#ranges label:has(:checked)").textContent === arguments[0]`, label)
	}
	b.keys(`[data-name="fiber"] svg`, "\ue012")
	b.await("the cursor to name a moment", `return /\d:\d\d:\d\d/.test(document.querySelector('[data-name="fiber"] figcaption').textContent)`)
	b.faultless()
}

func TestTheDrainButtonNeedsTheToken(t *testing.T) {
	r, b := newDashboard(t, dashboardToken)
	b.await("fiber to be up", shows, "fiber", "up")
	drained := func() bool { return r.status().Uplinks[0].Drained }
	button := `[data-drain="fiber"]`

	b.click(button)
	b.await("the refusal", `return document.getElementById("note").textContent.startsWith("Refused: ")`)
	if drained() {
		t.Fatal("it was drained without a token")
	}
	b.keys("#token", "a wrong one, and long enough\ue007")
	b.await("the dialog to close", `return !document.getElementById("unlock").open`)
	b.click(button)
	b.await("the second refusal", `return document.getElementById("unlock").open`)
	if drained() {
		t.Fatal("it was drained with a wrong token")
	}
	b.keys("#token", dashboardToken+"\ue007")
	b.await("the dialog to close", `return !document.getElementById("unlock").open`)
	b.click(button)
	b.await("the page to say drained", `return document.querySelector('[data-name="fiber"] .chip')?.textContent === "drained"`)
	b.await("the answer to be lte", `return document.getElementById("answer").textContent.includes("Online by lte")`)
	if !drained() {
		t.Error("the page says drained and the daemon does not")
	}
	b.await("the button to undrain", `return document.querySelector('[data-drain="fiber"]').textContent === "Undrain"`)
	b.click(button)
	b.await("the answer to be fiber", `return document.getElementById("answer").textContent.includes("Online by fiber")`)
}

func TestTheDashboardSaysThatItIsStaleWhenTheDaemonStops(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	if got := b.text("#live"); got != "live" {
		t.Errorf("it says %q while all is well", got)
	}
	r.stop()
	b.await("the page to be stale", `return document.body.classList.contains("stale")`)
	if got := b.text("#stale"); !strings.Contains(got, "has not answered for") {
		t.Errorf("it says %q", got)
	}
	r.start()
	b.await("the page to be live again", `return !document.body.classList.contains("stale")`)
}

func TestTheDashboardExplainsAPacketAndShowsWhatOthersWroteAsText(t *testing.T) {
	_, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	b.click("#explain summary")
	b.keys(`#ask [name="to"]`, "192.0.2.1\ue007")
	b.await("the explanation", `return document.getElementById("explained").textContent.includes("It leaves by fiber via 198.51.100.1")`)
	if got := b.text("#explained"); !strings.Contains(got, "The kernel says the same.") || !strings.Contains(got, "uplinkd.toml:") {
		t.Errorf("the explanation is %q", got)
	}
	// A message with markup in it, as a hostile target or a device's name may bring it about.
	b.script(nil, `status.problems = [{code: "x", severity: "error", message: "<img src=x onerror=\"window.owned=1\"><b>bold</b>", fix: "<script>window.owned=1</script>"}]; show();`)
	var shown struct {
		Text  string
		Marks int
		Owned bool
	}
	b.script(&shown, `const p = document.getElementById("problemlist"); return {Text: p.textContent, Marks: p.querySelectorAll("img, script").length, Owned: !!window.owned}`)
	if shown.Marks != 0 || shown.Owned || !strings.Contains(shown.Text, "<img src=x") {
		t.Errorf("%+v", shown)
	}
	b.faultless()
}

// TestTheDashboardFitsPhonesAndDesktops looks for what overflows, in light and dark, and keeps the pictures where
// UPLINKD_SCREENSHOTS says.
func TestTheDashboardFitsPhonesAndDesktops(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7"), Interval: 5 * time.Millisecond}
	r.probe(probe)
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	b.await("the page to show fiber down", shows, "fiber", "down")
	b.await("curves", `return document.querySelectorAll(".chart path.ln").length >= 4`)
	// What the lab has nothing of: delegations, LANs, policies, tunnels, problems and long texts.
	b.script(nil, `const richer = s => {
  s.uplinks[0].ipv6.delegated = [{prefix: "2001:db8:a000::/56", preferred_s: 2700, valid_s: 5400}, {prefix: "2001:db8:b000::/56", preferred_s: 0, valid_s: 250}];
  s.uplinks[1].metered = true; s.uplinks[1].bytes_month = 17800000000; s.uplinks[1].bytes_today = 812000000; s.uplinks[1].quota_bytes = 20000000000; s.uplinks[1].over = "fiber";
  s.lans = [{device: "br-lan", subnet_id: 1, advertise: true, online: true, ula: "fd12:3456:789a:1::/64", mtu: 1492, dns: ["2001:db8:1::53"], prefixes: [{prefix: "2001:db8:a000:1::/64", uplink: "fiber", usable: true, preferred_s: 2700, valid_s: 5400}, {prefix: "2001:db8:b000:1::/64", uplink: "lte", usable: false, preferred_s: 0, valid_s: 250}], other_routers: [{router: "fe80::5", lifetime_s: 1800, prefixes: [], conflicts: ["it says M=1"]}]}];
  s.policies = [{name: "tcp-through-vps", protocol: "tcp", except: ["192.168.0.0/16", "10.0.0.0/8"], uplinks: ["fiber", "lte"], fallback: "default"}];
  s.problems = [{code: "probe-blocked", severity: "error", message: "this machine keeps probes of lte in ipv4 from leaving, so nobody can tell whether it works: operation not permitted", fix: "nft insert rule inet filter output meta mark and 0x3f000000 == 0x2000000 accept"}, {code: "dead-target", severity: "warning", message: "target 192.0.2.9 does not answer while others do, by fiber: it has no vote until it does", fix: "choose another target in [uplink.probe], unless it is known to come back"}];
  return s;
};
const usual = show;
show = () => { richer(status); usual(); };
show();`)
	if text := b.text("main"); strings.Contains(text, "[object") || strings.Contains(text, "undefined") || strings.Contains(text, "NaN") {
		t.Errorf("it shows what no person wrote: %s", text)
	}
	for _, width := range []int{360, 768, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			b.setViewport(width, 900, scheme)
			var wide []string
			b.script(&wide, `return Array.from(document.querySelectorAll("body *")).filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("svg") && !e.classList.contains("skip")).map(e => e.tagName + "." + e.className)`)
			if len(wide) > 0 {
				t.Errorf("at %d pixels these reach beyond the edge: %v", width, wide)
			}
			shot := b.picture()
			config, err := png.DecodeConfig(bytes.NewReader(shot))
			if err != nil || config.Width != width {
				t.Errorf("a picture of %d pixels has %d: %v", width, config.Width, err)
			}
			if dir := os.Getenv("UPLINKD_SCREENSHOTS"); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%s.png", width, scheme)), shot, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	b.faultless()
}
