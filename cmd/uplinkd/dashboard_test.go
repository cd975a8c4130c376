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
	b.await("what is dead to look dead", `const path = document.querySelector('[data-name="fiber"] .path'), targets = [...path.querySelectorAll(".targets span")];
return targets.length > 0 && targets.every(t => t.className === "dead") && path.querySelector(".nums").textContent.includes("latency –")`)
	const icon = `document.querySelector("link[rel=icon]").getAttribute("href")`
	b.await("the tab to say online", `return document.title.endsWith("Online by lte") && `+icon+`.includes("%231f7a4f")`)
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	b.await("the tab to say offline", `return document.title.includes("Offline") && `+icon+`.includes("%23b3261e") && document.getElementById("spoken").textContent.startsWith("Offline")`)
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

	const offered = `return !!document.querySelector('[data-drain="fiber"]')`
	b.await("no button without a token", `return !document.querySelector("[data-drain]") && !document.getElementById("key").hidden`)
	b.click("#key")
	b.keys("#token", "a wrong one, and long enough\ue007")
	b.await("the refusal at once", `return document.getElementById("note").textContent === "Refused: this is not the token." && document.getElementById("unlock").open`)
	b.await("no button with a wrong token", `return !document.querySelector("[data-drain]")`)
	b.keys("#token", dashboardToken+"\ue007")
	b.await("the dialog to close", `return !document.getElementById("unlock").open`)
	b.await("the button", offered)
	if drained() {
		t.Fatal("it was drained by nobody")
	}
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
	b.await("the tab to say so", `return document.title === "No answer – uplinkd"`)
	if got := b.text("#stale"); !strings.Contains(got, "has not answered since ") {
		t.Errorf("it says %q", got)
	}
	r.start()
	b.await("the page to be live again", `return !document.body.classList.contains("stale")`)
}

func TestTheDashboardTellsOfOutagesAndOfChangesBehindTheDaemonsBack(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	b.await("a month without an outage", `return /No outage in \d{4}-\d\d/.test(document.getElementById("outagelist").textContent)`)
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	row := func(text string) string {
		return fmt.Sprintf(`return [...document.querySelectorAll("#outagelist tbody tr")].some(r => r.textContent.includes("fiber IPv4") && r.textContent.includes(%q))`, text)
	}
	b.await("the outage while it lasts", row("now, "))
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	b.await("the outage that is over", `return [...document.querySelectorAll("#outagelist tbody tr")].some(r => r.textContent.includes("fiber IPv4") && !r.textContent.includes("now, "))`)

	r.sh("router", "nft flush ruleset")
	b.await("the explanation in the log", `return document.getElementById("events").textContent.includes("behind its back")`)
	b.await("the notice with its cure", `return /Once in the last 24 hours another program .*Fix: .*flush ruleset/.test(document.getElementById("problemlist").textContent)`)
	b.faultless()
}

func TestTheDashboardSaysPoliciesInSentences(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	if err := os.WriteFile(r.config, []byte(r.configured()+killed[strings.Index(killed, "[[policy]]"):]), 0o600); err != nil {
		t.Fatal(err)
	}
	r.command("reload", "--socket", filepath.Join(r.dir, "s"))
	said := func(want string) string {
		return fmt.Sprintf("return document.getElementById('policies').textContent.includes(%q)", want)
	}
	b.await("who carries it", said("goes by fiber."))
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	b.await("the closed kill switch", said("is refused: the kill switch is closed."))
	b.faultless()
}

func TestTheDashboardExplainsAPacketAndShowsWhatOthersWroteAsText(t *testing.T) {
	_, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	b.keys(`#ask [name="to"]`, "192.0.2.1\ue007")
	b.await("the explanation", `return document.getElementById("explained").textContent.includes("It leaves by fiber via 198.51.100.1")`)
	if got := b.text("#explained"); !strings.HasPrefix(got, "It leaves by fiber") || !strings.Contains(got, "The kernel says the same.") || !strings.Contains(got, "uplinkd.toml:") {
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

// The doctor can be called from the page: what is wrong is there with its cure, and gone when it is.
func TestTheDashboardTellsWhatTheDoctorFinds(t *testing.T) {
	r, b := newDashboard(t, "")
	b.await("fiber to be up", shows, "fiber", "up")
	b.click("#examine")
	b.await("nothing", `return document.getElementById("findings").textContent.includes("Nothing was found.")`)
	r.sh("router", "ip rule add pref 10150 from 192.168.77.0/24 lookup main")
	b.await("the rule among ours", `const found = document.getElementById("findings").textContent;
		if (found.includes("Nothing was found.")) document.getElementById("examine").click(); // what was found serves for a while
		return /foreign-rules.*Fix: ip -4 rule del pref 10150/.test(found)`)
	b.faultless()
}

// TestTheDashboardFitsPhonesAndDesktops looks for what overflows, in light and dark.
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
  s.problems = [{code: "probe-blocked", severity: "error", message: "this machine's firewall blocks outgoing probes of lte (ipv4), so its state is unknown: operation not permitted", fix: "nft insert rule inet filter output meta mark and 0x3f000000 == 0x2000000 accept"}, {code: "dead-target", severity: "warning", message: "target 192.0.2.9 does not answer by fiber, although others do: it is ignored until it answers", fix: "choose another target in [uplink.probe], unless the outage is known"}];
  return s;
};
const usual = show;
show = () => { richer(status); usual(); };
show();`)
	if text := b.text("main"); strings.Contains(text, "[object") || strings.Contains(text, "undefined") || strings.Contains(text, "NaN") {
		t.Errorf("it shows what no person wrote: %s", text)
	}
	b.keys(`#ask [name="to"]`, "2001:db8:ff::1\ue007")
	b.await("the explanation", `const steps = document.querySelector("#explained details"); if (steps) steps.open = true; return !!steps`)
	for _, width := range []int{360, 768, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			b.setViewport(width, 900, scheme)
			b.fits(width)
			b.accessible(fmt.Sprintf("at %d pixels, %s", width, scheme))
			shot := b.picture()
			config, err := png.DecodeConfig(bytes.NewReader(shot))
			if err != nil || config.Width != width {
				t.Errorf("a picture of %d pixels has %d: %v", width, config.Width, err)
			}
		}
	}
	b.faultless()
}
