package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// scene is what a daemon would have to tell in a state that takes hours, or 62 uplinks, to bring about. The rest of a source is not asked
// for by the page.
type scene struct {
	api.Source
	status status.Status
	report status.Report
	events []status.Event
	found  []status.Finding // by the doctor
}

func (s *scene) Status() status.Status               { return s.status }
func (s *scene) Report(string) (status.Report, bool) { return s.report, true }
func (s *scene) Usage() status.Usage                 { return status.Usage{} }
func (s *scene) Healthy() error                      { return nil }

// History is an evening: latency that wavers, downloads that come and go.
func (s *scene) History(name string, after time.Time) (status.History, bool) {
	now := time.Now().Unix()
	h := status.History{Range: name, StepS: 1, First: now - 300, Samples: 300}
	if !after.IsZero() {
		h.First, h.Samples = now-1, 1
	}
	for i := range s.status.Uplinks {
		u := &s.status.Uplinks[i]
		seen := status.UplinkHistory{Name: u.Name}
		for step := 300 - h.Samples; step < 300; step++ {
			x := float64(now-300+int64(step)) / 7
			wave := 1 + 0.2*math.Sin(x) + 0.15*math.Sin(2.7*x+float64(i))
			alive := u.IPv4.State != uplink.Down || step < 200
			load := u.IPv4.Share
			switch { // a third of the chart ago, all by the spare
			case step >= 200:
			case u.IPv4.State == uplink.Down:
				load = 1
			case load == 1 && u.Tier > 1:
				load = 0
			}
			seen.Received = append(seen.Received, float32(load*2.6e6*wave*(1.2+math.Sin(x/5+float64(i)))))
			seen.Sent = append(seen.Sent, float32(load*2.2e5*wave))
			for _, p := range []struct {
				h *status.PathHistory
				f *status.FamilyStatus
			}{{&seen.IPv4, &u.IPv4}, {&seen.IPv6, &u.IPv6}} {
				rtt, loss, state := float32(float64(p.f.RTTms)*wave), float32(0), string(p.f.State)
				switch {
				case !alive:
					rtt, loss = float32(math.NaN()), 1
				case p.f.State == uplink.Down:
					rtt, state = float32(11*wave), "up"
				}
				if p.f.State == uplink.Disabled {
					rtt, loss = float32(math.NaN()), float32(math.NaN())
				}
				p.h.Append(rtt, loss, state)
			}
		}
		h.Uplinks = append(h.Uplinks, seen)
	}
	return h, true
}

// line makes an uplink that works.
func line(i int, name, device string, tier int, rtt, share float64) status.Uplink {
	target := func(a string) status.Target { return status.Target{Target: a, Up: true, RTTms: status.Millis(rtt)} }
	since := status.At(time.Now().Add(-time.Duration(i*7+3) * time.Hour))
	return status.Uplink{Name: name, Kind: "isp", Device: device, Tier: tier, Weight: 1, Table: 11700 + i, Mark: status.Mark(i << 24), Default: true, Failback: "after-stable", ProbeBytesToday: 2_340_000,
		IPv4: status.FamilyStatus{State: uplink.Up, Code: uplink.CodeSteady, Since: since, Share: share, RTTms: status.Millis(rtt), JitterMs: status.Millis(rtt / 12), Class: "good",
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i*4 + 2)}), 30)}, Gateway: netip.AddrFrom4([4]byte{198, 51, 100, byte(i*4 + 1)}),
			Targets: []status.Target{target("1.1.1.1"), target("8.8.8.8"), target("9.9.9.9")}},
		IPv6: status.FamilyStatus{State: uplink.Disabled, Code: uplink.CodeNotOffered, Reason: "this line has no IPv6"}}
}

func dead(f *status.FamilyStatus, minutes int) {
	at := time.Now().Add(-time.Duration(minutes) * time.Minute)
	f.State, f.Code, f.Share, f.Loss = uplink.Down, uplink.CodeSilence, 0, 1
	f.Reason, f.Since = "no answer from 3 targets since "+at.Format(time.TimeOnly), status.At(at)
	for i := range f.Targets {
		f.Targets[i].Up = false
	}
}

func outage(began time.Duration, length float64, cause string) status.Outage {
	o := status.Outage{Begin: status.At(time.Now().Add(-began)), LengthS: length, EndSeen: true, Code: "silence", Cause: cause}
	if began.Seconds() > length {
		o.End = status.At(o.Begin.Add(time.Duration(length * float64(time.Second))))
	}
	return o
}

func reported(name string, availability float64, outages ...status.Outage) status.ReportedUplink {
	return status.ReportedUplink{Name: name, Families: []status.ReportedFamily{{Family: "ipv4", Availability: &availability, UpS: 2_000_000, DownS: int64(2e6 * (1 - availability)), Outages: outages}}}
}

// scenes are the states that the page is looked at in.
func scenes() map[string]*scene {
	base := func(uplinks ...status.Uplink) *scene {
		month := time.Now().Format("2006-01")
		s := &scene{status: status.Status{Version: "1.0.0", Started: status.At(time.Now().Add(-100 * time.Hour)), Converged: true, Uplinks: uplinks},
			report: status.Report{Month: month, Months: []string{month, "2026-10", "2026-09"}, Until: status.At(time.Now())}}
		for i := range uplinks {
			s.report.Uplinks = append(s.report.Uplinks, reported(uplinks[i].Name, 1))
		}
		return s
	}
	lte := func(share float64) status.Uplink {
		u := line(2, "lte", "wwan0", 2, 41.3, share)
		u.Metered, u.BytesToday, u.BytesMonth, u.QuotaBytes = true, 312_000_000, 7_800_000_000, 20_000_000_000
		return u
	}
	healthy := base(line(1, "fiber", "enp1s0", 1, 8.4, 1), lte(0))
	healthy.status.Uplinks[0].IPv6 = healthy.status.Uplinks[0].IPv4
	six := &healthy.status.Uplinks[0].IPv6
	six.Addresses, six.Gateway = []netip.Prefix{netip.MustParsePrefix("2001:db8:a::2/64")}, netip.MustParseAddr("fe80::1")
	six.Targets = []status.Target{{Target: "2606:4700:4700::1111", Up: true, RTTms: 8.9}, {Target: "2001:4860:4860::8888", Up: true, RTTms: 9.4}, {Target: "2620:fe::fe", Up: true, RTTms: 9}}
	six.Delegated = []status.Delegated{{Prefix: netip.MustParsePrefix("2001:db8:a000::/56"), PreferredS: 2700, ValidS: 5400}}
	healthy.report.Uplinks = []status.ReportedUplink{reported("fiber", 0.99987, outage(220*time.Hour, 214, "no answer from 3 targets for 1.1 s")), reported("lte", 1)}

	broken := base(line(1, "fiber", "enp1s0", 1, 8.4, 0), lte(1))
	dead(&broken.status.Uplinks[0].IPv4, 4)
	broken.status.Uplinks[1].IPv4.Targets[2].Up = false
	broken.status.Problems = []rules.Problem{{Code: "dead-target", Severity: "warning", Message: "target 9.9.9.9 does not answer by lte, although others do: it is ignored until it answers",
		Fix: "choose another target in [uplink.probe], unless the outage is known"}}
	broken.report.Uplinks = []status.ReportedUplink{reported("fiber", 0.9991, outage(220*time.Hour, 214, "no answer from 3 targets for 1.1 s"), outage(4*time.Minute, 240, "no answer from 3 targets for 1.1 s")), reported("lte", 1)}

	broken.found = []status.Finding{
		{Check: "foreign-rules", Severity: "error", Cause: "rule 10150 stands among those of uplinkd, and sends packets past them", Fix: "ip -4 rule del pref 10150"},
		{Check: "rp-filter", Severity: "warning", Cause: "the kernel drops packets that arrive on lte (wwan0)", Fix: "sysctl -w net.ipv4.conf.wwan0.rp_filter=2"},
		{Check: "flow-offload", Severity: "notice", Cause: "a flowtable of another program has connections", Fix: ""}}

	at := broken.status.Uplinks[0].IPv4.Since
	broken.events = []status.Event{
		{Kind: status.EventVerdict, Time: at, Uplink: "fiber", Family: "ipv4", From: "up", To: "suspect", Reason: "4 of 4 probes to 3 targets unanswered for 400 ms"},
		{Kind: status.EventSwitch, Time: at, Family: "ipv4", From: "fiber", To: "lte", Reason: "new traffic uses lte: best working uplink (tier 2)"},
		{Kind: status.EventVerdict, Time: at, Uplink: "fiber", Family: "ipv4", From: "suspect", To: "down", Reason: broken.status.Uplinks[0].IPv4.Reason},
	}

	down := base(line(1, "fiber", "enp1s0", 1, 8.4, 0), lte(0))
	dead(&down.status.Uplinks[0].IPv4, 4)
	dead(&down.status.Uplinks[1].IPv4, 2)
	down.status.Uplinks[1].IPv4.Code, down.status.Uplinks[1].IPv4.Reason, down.status.Uplinks[1].IPv4.Addresses, down.status.Uplinks[1].IPv4.Gateway = uplink.CodeNoCarrier, "carrier lost", nil, netip.Addr{}
	down.report.Uplinks = broken.report.Uplinks

	several := func(n int) *scene {
		var uplinks []status.Uplink
		for i := range n {
			uplinks = append(uplinks, line(i+1, fmt.Sprintf("wan%d", i+1), fmt.Sprintf("enp%ds0", i+1), 1+i*2/n, 8+float64(i*7%40), 0))
		}
		dead(&uplinks[n/4].IPv4, 31)
		for i := range n / 2 {
			if i != n/4 {
				uplinks[i].IPv4.Share = 1 / float64(n/2-1)
			}
		}
		uplinks[n-1].Drained = true
		s := base(uplinks...)
		s.report.Uplinks[n/4] = reported(uplinks[n/4].Name, 0.9993, outage(31*time.Minute, 1860, "no answer from 3 targets for 1.1 s"))
		return s
	}
	all := map[string]*scene{"healthy": healthy, "broken": broken, "down": down, "12": several(12), "62": several(62)}
	for _, s := range all {
		s.status.Headline = s.status.Summary()
	}
	return all
}

// showScene serves a scene as the daemon does its own, on a host of a world, and opens it in a browser there.
func showScene(t *testing.T, s *scene, token string) *browser {
	t.Helper()
	r := newRouter(t, lab.Options{}, "")
	host := r.Host("router")
	r.sh("router", "ip link set lo up")
	log := api.NewEventLog(100, api.FirstID(time.Now()))
	log.Append(status.Event{Kind: status.EventStart, Time: s.status.Started, Message: "uplinkd 1.0.0"})
	for _, e := range s.events {
		log.Append(e)
	}
	var listeners *api.Listeners
	if err := host.Do(func() (err error) {
		listeners, err = api.Listen(t.Context(), "", dashboardAddress)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	examine := func(context.Context) (status.Examination, error) { return status.Examination{Findings: s.found}, nil }
	go func() {
		done <- api.NewServer(api.Options{Source: s, Meter: s, Events: log, Token: token, Examine: examine}).Serve(ctx, listeners)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b := newBrowser(t, host)
	b.setViewport(1280, 900, "light")
	b.open("http://" + dashboardAddress + "/")
	b.await("the charts and the outages", `return !!document.querySelector("#traffic .chart path.ar") && document.getElementById("outagelist").children.length > 0`)
	return b
}

// fits fails the test for what reaches beyond the right edge.
func (b *browser) fits(width int) {
	b.Helper()
	var wide []string
	// innerWidth grows on a phone with what reaches beyond it.
	b.script(&wide, `return Array.from(document.querySelectorAll("body *")).filter(e => e.getBoundingClientRect().right > arguments[0] + 1 && !e.closest("svg") && !e.classList.contains("skip")).map(e => e.tagName + "." + e.className)`, width)
	if len(wide) > 0 {
		b.Errorf("at %d pixels these reach beyond the edge: %v", width, wide)
	}
}

// barriers is a script that looks for what keeps out people who hear the page, use a keyboard, or need contrast (WCAG 2.2 A and AA).
const barriers = `const bad = [], seen = e => e.checkVisibility() && !e.closest(".spoken, .skip");
const rgb = c => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const lum = c => { const l = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let texts = 0;
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !seen(e) || e.closest("svg, script, style") || e.disabled) continue;
  texts++;
  const a = lum(rgb(getComputedStyle(e).color)), g = lum(ground(e)), c = (Math.max(a, g) + .05) / (Math.min(a, g) + .05);
  if (c < 4.5) bad.push("contrast " + c.toFixed(2) + ": " + walk.currentNode.data.trim().slice(0, 40));
}
if (texts < 30) bad.push("only " + texts + " texts");
const name = e => (e.getAttribute("aria-label") || [...(e.labels || [])].map(l => l.textContent).join(" ") || e.textContent || "").trim();
for (const e of document.querySelectorAll("button, a[href], input, select, summary, [tabindex='0'], [role=img], [role=region], section, article")) if (seen(e) && !name(e)) bad.push("no name: " + e.outerHTML.slice(0, 80));
for (const e of document.querySelectorAll("section")) if (!e.getAttribute("aria-label")) bad.push("no label: " + e.id);
const names = [...document.querySelectorAll("button")].filter(seen).map(name);
for (const n of names) if (names.indexOf(n) !== names.lastIndexOf(n)) bad.push("two buttons are called " + n);
const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
for (const i of ids) if (ids.indexOf(i) !== ids.lastIndexOf(i)) bad.push("id twice: " + i);
for (const [s, n] of [["main", 1], ["header", 1], ["footer", 1], ["h1", 1], ["html[lang]", 1]]) if (document.querySelectorAll(s).length !== n) bad.push(s + " is there " + document.querySelectorAll(s).length + " times");
let level = 0;
for (const h of document.querySelectorAll("h1, h2, h3")) { if (!seen(h)) continue; const l = +h.tagName[1]; if (l > level + 1) bad.push("h" + l + " behind h" + level + ": " + h.textContent); level = l; }
for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) bad.push("tab order of its own: " + e.outerHTML.slice(0, 80));
for (const e of document.querySelectorAll("button, input, select, summary")) { const r = e.getBoundingClientRect(); if (seen(e) && r.width && (r.width < 24 || r.height < 24) && e.type !== "radio") bad.push("small to press, " + r.width.toFixed() + "x" + r.height.toFixed() + ": " + name(e)); }
return bad`

// mistakesAreFound puts some into the page, and fails the test unless each is found.
func (b *browser) mistakesAreFound() {
	b.Helper()
	var found []string
	b.script(&found, `const p = document.createElement("section"); p.append("pale on pale", document.createElement("button")); p.style.color = "#ddd"; document.querySelector("main").append(p);
const found = (() => { `+barriers+` })(); p.remove(); return found`)
	for _, want := range []string{"contrast 1.", "no name: <button", "no label: ", "small to press"} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, want) }) {
			b.Errorf("%s is not found: %q", want, found)
		}
	}
}

// tabs presses Tab until the end of the page, and returns what had the focus, by its place in the document, with those that did not show it.
func (b *browser) tabs() (places []int, unseen []string) {
	b.Helper()
	b.script(nil, "document.activeElement.blur(); scrollTo(0, 0)")
	for range 400 {
		b.devtools("Input.dispatchKeyEvent", map[string]any{"type": "rawKeyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9})
		b.devtools("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9})
		var at struct {
			Place int
			Shown bool
			Name  string
		}
		b.script(&at, `const e = document.activeElement, shown = e.type === "radio" ? e.parentElement : e;
return {Place: e === document.body ? -1 : [...document.querySelectorAll("*")].indexOf(e), Shown: getComputedStyle(shown).outlineStyle !== "none", Name: e.outerHTML.slice(0, 80)}`)
		if at.Place < 0 || len(places) > 0 && at.Place <= places[0] {
			break
		}
		places = append(places, at.Place)
		if !at.Shown {
			unseen = append(unseen, at.Name)
		}
	}
	return places, unseen
}

// kept are the pictures that the documentation has, by their names there.
var kept = map[string]string{"healthy-1280-light": "dashboard", "broken-1280-dark": "dashboard-broken", "broken-360-light": "dashboard-phone", "12-1280-light": "dashboard-12"}

// TestTheDashboardServesEveryoneInEveryState looks at each state at three widths, in light and dark. Pictures of all are kept where
// UPLINKD_SCREENSHOTS says.
func TestTheDashboardServesEveryoneInEveryState(t *testing.T) {
	dir := os.Getenv("UPLINKD_SCREENSHOTS")
	for name, s := range scenes() {
		t.Run(name, func(t *testing.T) {
			b := showScene(t, s, dashboardToken)
			b.mistakesAreFound()
			b.axeFindsMistakes()
			for _, width := range []int{360, 768, 1280} {
				for _, scheme := range []string{"light", "dark"} {
					b.setViewport(width, 900, scheme)
					b.fits(width)
					b.accessible(fmt.Sprintf("at %d pixels, %s", width, scheme))
					if dir == "" {
						continue
					}
					picture := fmt.Sprintf("%s-%d-%s", name, width, scheme)
					if err := os.WriteFile(filepath.Join(dir, picture+".png"), b.picture(), 0o644); err != nil {
						t.Fatal(err)
					}
					if kept[picture] != "" {
						if err := os.WriteFile(filepath.Join(dir, kept[picture]+".webp"), b.small(), 0o644); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			b.setViewport(360, 900, "dark")
			b.script(nil, `const more = document.querySelector("[data-open]"); if (more) more.click()`)
			b.fits(360)
			b.accessible("with an uplink opened")
			places, unseen := b.tabs()
			if len(places) < 8 || !slices.IsSorted(places) || len(unseen) > 0 {
				t.Errorf("the focus goes to %v; it cannot be seen at %v", places, unseen)
			}
			b.click("#examine")
			b.await("what the doctor finds", `return document.getElementById("findings").children.length === arguments[0]`, max(1, len(s.found))+1)
			b.fits(360)
			b.accessible("with the machine examined")
			b.click("#key")
			b.accessible("while a token is asked for")
			b.script(nil, `document.getElementById("unlock").close(); fetch = () => Promise.reject(new Error("no answer"))`)
			b.await("the daemon to be missed", `return document.body.classList.contains("stale")`)
			for _, scheme := range []string{"light", "dark"} {
				b.setViewport(1280, 900, scheme)
				b.accessible("while nobody answers, " + scheme)
			}
			b.faultless()
		})
	}
}

// small returns a picture of the upper part of the page, for a document.
func (b *browser) small() []byte {
	b.Helper()
	var shot struct{ Data string }
	if err := json.Unmarshal(b.devtools("Page.captureScreenshot", map[string]any{"format": "webp", "quality": 82}), &shot); err != nil {
		b.Fatal(err)
	}
	picture, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.Fatal(err)
	}
	return picture
}

func TestTheDashboardSaysSinceWhenTrafficTakesItsWay(t *testing.T) {
	b := showScene(t, scenes()["broken"], "")
	b.await("the decisions", `return document.getElementById("events").children.length === 4`)
	if got := b.text("#answer"); !strings.Contains(got, "for 4 min") {
		t.Errorf("the spare carries traffic for four minutes, and the page says %q", got)
	}
	b.faultless()
}

func TestTheDashboardStaysUsableWith62Uplinks(t *testing.T) {
	b := showScene(t, scenes()["62"], dashboardToken)
	var page struct{ Height, Cards, Stops, Drawn int }
	look := func() {
		b.script(&page, `return {Height: document.getElementById("cards").offsetHeight, Cards: document.querySelectorAll(".card").length, Stops: document.querySelectorAll("#cards svg[tabindex='0']").length, Drawn: document.querySelectorAll("#cards .chart").length}`)
	}
	if look(); page.Cards != 62 || page.Height > 62*60 || page.Drawn > 0 || page.Stops > 0 {
		t.Errorf("%+v", page)
	}
	if got := b.text("#answer"); len(got) > 200 || !strings.Contains(got, " more") {
		t.Errorf("the answer is %q", got)
	}
	b.keys("#wanted", "down")
	b.await("the one that is down", `const c = document.querySelectorAll(".card"); return c.length === 1 && c[0].dataset.name === "wan16"`)
	b.click(`[data-open="wan16"]`)
	b.await("its charts and targets", `const c = document.querySelector('[data-name="wan16"]'); return c.querySelectorAll(".chart").length === 2 && c.querySelectorAll(".targets .dead").length === 3`)
	b.script(nil, `const w = document.getElementById("wanted"); w.value = "wan6"; w.dispatchEvent(new Event("input"))`)
	b.await("four of that name", `return document.querySelectorAll(".card").length === 4`)
	b.script(nil, `const w = document.getElementById("wanted"); w.value = "nosuch"; w.dispatchEvent(new Event("input"))`)
	b.await("none", `return document.getElementById("cards").textContent === "No uplink is like that."`)
	b.script(nil, `const w = document.getElementById("wanted"); w.value = ""; w.dispatchEvent(new Event("input"))`)
	b.await("all again", `return document.querySelectorAll(".card").length === 62`)
	b.faultless()
}

func TestAHouseWithoutIPv6SeesNoRedIPv6(t *testing.T) {
	s := scenes()["broken"]
	for i := range s.status.Uplinks { // as it is in the first minutes, before a line is known not to have it
		s.status.Uplinks[i].IPv6 = status.FamilyStatus{State: uplink.Down, Code: uplink.CodeNoAddress, Reason: "no address"}
	}
	b := showScene(t, s, "")
	const red = `return [...document.querySelectorAll(".path")].filter(p => p.textContent.startsWith("IPv6") && p.querySelector(".s-down")).length`
	var n int
	if b.script(&n, red); n != 0 || strings.Contains(b.text("#answer"), "IPv6") {
		t.Errorf("%d red lines, and the answer %q", n, b.text("#answer"))
	}
	var hidden bool
	if b.script(&hidden, `return document.getElementById("key").hidden`); !hidden {
		t.Error("Unlock is offered where no token is configured")
	}
	b.faultless()
}
