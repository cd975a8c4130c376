package notify

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/schedule/clocktest"
	"github.com/uplinkd/uplinkd/internal/status"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC
	m.Run()
}

// start is the time 0 s of stories here.
var start = time.Date(2026, 11, 29, 20, 0, 0, 0, time.UTC)

// story plays events of the form "SECONDS what" to a digest and returns its messages as "SECONDS title: text", at the second when they are made.
//
//	5 fiber ipv4 down no answer      a verdict
//	5 switch ipv4 fiber lte [code]   new traffic
//	5 cause ipv4 | cause-over ipv4   an outage of everything
//	5 quota lte 80 % are used up     any other event
func story(t *testing.T, n config.Notify, until int, lines ...string) []string {
	t.Helper()
	var k kept
	k.restore(&n, start)
	var got []string
	next, id := 0, uint64(0)
	for second := 0; second <= until; second++ {
		now := start.Add(time.Duration(second) * time.Second)
		for ; next < len(lines); next++ {
			var at int
			if _, err := fmt.Sscanf(lines[next], "%d", &at); err != nil {
				t.Fatal(lines[next], err)
			}
			if at != second {
				break
			}
			id++
			e := event(strings.Fields(lines[next])[1:])
			e.ID, e.Time = id, status.At(now)
			k.Digest.event(e)
		}
		if second%10 == 0 { // what is kept over a restart is all that there is
			text, err := json.Marshal(k)
			if err != nil {
				t.Fatal(err)
			}
			k = kept{}
			if err := json.Unmarshal(text, &k); err != nil {
				t.Fatal(err)
			}
			k.restore(&n, now)
		}
		messages, _ := k.Digest.due(now)
		for _, m := range messages {
			got = append(got, fmt.Sprintf("%d %s: %s", second, m.Message.Title, m.Message.Text))
		}
	}
	if next < len(lines) {
		t.Fatalf("%q is never told", lines[next])
	}
	return got
}

func event(words []string) status.Event {
	switch words[0] {
	case "switch":
		e := status.Event{Kind: status.EventSwitch, Family: words[1], From: strings.Trim(words[2], "-"), To: strings.Trim(words[3], "-"), Reason: "best working uplink"}
		if len(words) > 4 {
			e.Code = words[4]
		}
		return e
	case "cause":
		return status.Event{Kind: status.EventCause, Family: words[1], Code: string(status.CauseBegan)}
	case "cause-over":
		return status.Event{Kind: status.EventCause, Family: words[1], Code: string(status.CauseOver)}
	}
	if slices.Contains(config.EventKinds, words[0]) {
		return status.Event{Kind: status.EventKind(words[0]), Uplink: words[1], Message: strings.Join(words[2:], " ")}
	}
	return status.Event{Kind: status.EventVerdict, Uplink: words[0], Family: words[1], To: words[2], Reason: strings.Join(words[3:], " ")}
}

func phone() config.Notify {
	return config.Notify{Name: "phone", URL: "ntfy://192.0.2.1/home", Events: config.EventKinds[:4], After: 30 * time.Second}
}

func TestOneOutageIsOneStory(t *testing.T) {
	all := phone()
	all.Events = config.EventKinds
	for name, c := range map[string]struct {
		notify config.Notify
		until  int
		events []string
		want   []string
	}{
		"speed and load are no news": {phone(), 900, []string{
			"10 switch ipv4 fiber fiber,lte overflow", "100 switch ipv4 fiber,lte fiber good", "200 switch ipv4 fiber lte fastest", "400 switch ipv4 lte fiber good", "500 switch ipv4 fiber lte good",
		}, []string{"530 New traffic uses lte: New traffic in IPv4 uses lte instead of fiber since 20:08:20: best working uplink."}},
		"an outage of a line that was full": {phone(), 800, []string{
			"10 switch ipv4 fiber fiber,lte overflow", "100 fiber ipv4 down no answer", "100 switch ipv4 fiber,lte lte good", "200 fiber ipv4 up", "200 switch ipv4 lte fiber good",
		}, []string{"130 fiber is down: fiber is down in IPv4 since 20:01:40: no answer. New traffic uses lte.", "200 fiber is back: fiber was down in IPv4 for 1 min 40 s, 20:01:40 to 20:03:20: no answer. New traffic uses it again."}},
		"a long outage": {phone(), 800, []string{
			"10 fiber ipv4 suspect 8 probes unanswered", "10 switch ipv4 fiber lte", "11 fiber ipv4 down no answer", "11 fiber ipv6 down no answer", "11 switch ipv6 fiber lte",
			"600 fiber ipv4 recovering", "610 fiber ipv4 up", "610 fiber ipv6 up", "640 switch ipv4 lte fiber", "640 switch ipv6 lte fiber",
		}, []string{
			"40 fiber is down: fiber is down since 20:00:10: no answer. New traffic uses lte.",
			"640 fiber is back: fiber was down for 10 min, 20:00:10 to 20:10:10: no answer. New traffic uses it again.",
		}},
		"a short one is told once": {phone(), 300, []string{
			"10 fiber ipv4 down no carrier", "10 switch ipv4 fiber lte", "22 fiber ipv4 up", "25 switch ipv4 lte fiber",
		}, []string{"25 fiber is back: fiber was down in IPv4 for 12 s, 20:00:10 to 20:00:22: no carrier. New traffic uses it again."}},
		"traffic that stays elsewhere is waited for, but not for ever": {phone(), 400, []string{
			"10 fiber ipv4 down no carrier", "10 switch ipv4 fiber lte", "22 fiber ipv4 up",
		}, []string{"142 fiber is back: fiber was down in IPv4 for 12 s, 20:00:10 to 20:00:22: no carrier. New traffic uses lte."}},
		"a spare that fails moves nothing": {phone(), 300, []string{"10 lte ipv4 down no answer", "200 lte ipv4 up"}, nil},
		"unless verdicts are asked for": {all, 300, []string{"10 lte ipv4 down no answer", "200 lte ipv4 up"}, []string{
			"40 lte is down: lte is down in IPv4 since 20:00:10: no answer.",
			"200 lte is back: lte was down in IPv4 for 3 min 10 s, 20:00:10 to 20:03:20: no answer.",
		}},
		"a moment of doubt is nothing":       {all, 300, []string{"10 lte ipv4 suspect 8 probes unanswered", "11 lte ipv4 up"}, nil},
		"what new traffic uses at the start": {phone(), 300, []string{"1 switch ipv4 - fiber", "1 switch ipv6 - fiber"}, nil},
		"a drain": {phone(), 300, []string{"10 switch ipv4 fiber lte", "11 switch ipv6 fiber lte"}, []string{
			"40 New traffic uses lte: New traffic uses lte instead of fiber since 20:00:10: best working uplink.",
		}},
		"a drain that is taken back": {phone(), 300, []string{"10 switch ipv4 fiber lte", "20 switch ipv4 lte fiber"}, nil},
		"the carrier fails too": {phone(), 300, []string{
			"10 fiber ipv4 down no answer", "10 switch ipv4 fiber lte", "60 lte ipv4 down no answer", "60 switch ipv4 lte sat",
		}, []string{
			"40 fiber is down: fiber is down in IPv4 since 20:00:10: no answer. New traffic uses lte.",
			"90 lte is down: lte is down in IPv4 since 20:01:00: no answer. New traffic uses sat.",
		}},
		"everything is dead, and it is one outage": {phone(), 900, []string{
			"10 fiber ipv4 suspect 8 probes unanswered", "11 lte ipv4 suspect 8 probes unanswered", "11 cause ipv4", "12 cause ipv6", "12 fiber ipv6 suspect x",
			"700 cause-over ipv4", "700 cause-over ipv6", "700 fiber ipv4 up", "701 fiber ipv6 up", "702 lte ipv4 up", "703 switch ipv6 fiber lte", "710 switch ipv6 lte fiber",
			"711 switch ipv4 fiber lte",
		}, []string{
			"41 No Internet: No uplink has worked since 20:00:11: no target answers by any of them.",
			"700 The Internet is back: No uplink worked for 11 min 29 s, 20:00:11 to 20:11:40: no target answers by any of them.",
		}},
		"one that outlives it": {phone(), 900, []string{
			"10 fiber ipv4 suspect x", "10 lte ipv4 suspect x", "11 cause ipv4", "20 cause-over ipv4", "20 lte ipv4 up", "21 fiber ipv4 down no answer", "21 switch ipv4 fiber lte",
		}, []string{
			"20 The Internet is back: No uplink worked in IPv4 for 9.0 s, 20:00:11 to 20:00:20: no target answers by any of them.",
			"80 fiber is down: fiber is down in IPv4 since 20:00:10: no answer. New traffic uses lte.",
		}},
		"a reload takes the family away": {all, 300, []string{"10 lte ipv6 down no router", "50 lte ipv6 disabled"}, []string{
			"40 lte is down: lte is down in IPv6 since 20:00:10: no router.",
			"50 lte is back: lte was down in IPv6 for 40 s, 20:00:10 to 20:00:50: no router.",
		}},
		"events one by one": {phone(), 60, []string{"10 quota lte 80 % are used up", "11 reload - taken over"}, []string{"10 Data allowance: lte: 80 % are used up."}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, story(t, c.notify, c.until, c.events...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A line that fails every five minutes for three hours, and then holds.
func TestWhatFlapsIsToldOnceAnHour(t *testing.T) {
	var events []string
	for at := 0; at < 3*3600; at += 300 {
		events = append(events, fmt.Sprintf("%d fiber ipv4 down no answer", at+10), fmt.Sprintf("%d switch ipv4 fiber lte", at+10),
			fmt.Sprintf("%d fiber ipv4 up", at+70), fmt.Sprintf("%d switch ipv4 lte fiber", at+80))
	}
	got := story(t, phone(), 6*3600, events...)
	var titles []string
	for _, m := range got {
		titles = append(titles, m[:strings.Index(m, ":")])
	}
	want := []string{"40 fiber is down", "80 fiber is back", "340 fiber is down", "380 fiber is back", "640 fiber is down", "680 fiber is back", "940 fiber is down", "980 fiber is back",
		"980 fiber keeps failing", "4580 fiber still keeps failing", "8180 fiber still keeps failing", "11780 fiber still keeps failing", "15380 fiber is stable"}
	if diff := cmp.Diff(want, titles); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, strings.Join(got, "\n"))
	}
	if !strings.Contains(strings.Join(got, "\n"), "fiber failed 12 times within the last hour, for 12 min in all, the longest 1 min. The latest cause: no answer.") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestAFloodOfEventsIsAFewMessages(t *testing.T) {
	n := phone()
	n.Events = []string{"lease"}
	var events []string
	for at := range 3000 {
		events = append(events, fmt.Sprintf("%d lease fiber an address of %d", at, at))
	}
	got := story(t, n, 4000, events...)
	if len(got) != singleLimit+1 || !strings.Contains(got[singleLimit], "This happened 2994 times more within the hour. The latest: fiber: an address of 2999.") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestKindsOfEventAreThoseOfTheLog(t *testing.T) {
	told := []string{string(status.EventSwitch), string(status.EventCause), string(status.EventVerdict)}
	for k := range singleTitles {
		told = append(told, string(k))
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(config.EventKinds)), slices.Sorted(slices.Values(told))); diff != "" {
		t.Errorf("the configuration accepts, and messages tell (-accept +tell):\n%s", diff)
	}
}

// Whatever happens: every outage that was told is told to be over, no more than one message a minute and line on average, and nothing is
// remembered for ever.
func TestStoriesComeToAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := phone()
		n.Events = config.EventKinds
		n.After = time.Duration(rapid.IntRange(0, 60).Draw(t, "after")) * time.Second
		var k kept
		k.restore(&n, start)
		now, open := start, make(map[string]bool)
		look := func() {
			for {
				messages, next := k.Digest.due(now)
				for _, m := range messages {
					if !m.Opens {
						if m.Key != "" && !strings.HasSuffix(m.Key, " flaps") {
							delete(open, m.Key)
						}
						continue
					}
					if open[m.Key] {
						t.Fatalf("%s is told to begin twice", m.Key)
					}
					open[m.Key] = true
				}
				if next.IsZero() || next.After(now) {
					return
				}
			}
		}
		states := []string{"up", "suspect", "down", "recovering", "degraded", "disabled", "init"}
		uplinks := []string{"fiber", "lte"}
		families := []string{"ipv4", "ipv6"}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "pause")) * time.Second)
			look()
			family := rapid.SampledFrom(families).Draw(t, "family")
			e := status.Event{Kind: status.EventVerdict, Time: status.At(now), Uplink: rapid.SampledFrom(uplinks).Draw(t, "uplink"), Family: family,
				To: rapid.SampledFrom(states).Draw(t, "state"), Reason: "x"}
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				e = status.Event{Kind: status.EventSwitch, Time: e.Time, Family: family, From: rapid.SampledFrom(uplinks).Draw(t, "from"), To: rapid.SampledFrom(uplinks).Draw(t, "to")}
			case 1:
				e = status.Event{Kind: status.EventCause, Time: e.Time, Family: family, Code: rapid.SampledFrom([]string{string(status.CauseBegan), string(status.CauseOver)}).Draw(t, "code")}
			}
			k.Digest.event(e)
			look()
		}
		for _, family := range families { // all is well at the end
			for _, u := range uplinks {
				k.Digest.event(status.Event{Kind: status.EventVerdict, Time: status.At(now), Uplink: u, Family: family, To: "up"})
			}
			k.Digest.event(status.Event{Kind: status.EventCause, Time: status.At(now), Family: family, Code: string(status.CauseOver)})
		}
		for range 10 {
			now = now.Add(flapWindow)
			look()
		}
		if len(open) != 0 {
			t.Fatalf("never told to be over: %v", slices.Collect(maps.Keys(open)))
		}
		if len(k.Digest.Lines)+len(k.Digest.Moves)+len(k.Digest.Singles) != 0 {
			t.Fatalf("remembered for ever: %+v", k.Digest)
		}
	})
}

// A router that starts with the wrong time has its clock set: what had begun then has begun all the same.
func TestAnOutageThatBeganByAWrongClockIsTold(t *testing.T) {
	n := config.Notify{Events: []string{"verdict"}, After: 30 * time.Second}
	now := time.Now()
	for name, clockWas := range map[string]time.Duration{"50 minutes ahead": 50 * time.Minute, "right": 0} {
		var k kept
		k.restore(&n, now.Add(clockWas))
		e := event(strings.Fields("fiber ipv4 down no answer"))
		e.ID, e.Time = 1, status.At(now.Add(clockWas).Round(0))
		k.Digest.event(e)
		text, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		k = kept{}
		if err := json.Unmarshal(text, &k); err != nil {
			t.Fatal(err)
		}
		k.restore(&n, now)
		if messages, next := k.Digest.due(now); len(messages) != 0 || next.Sub(now) > n.After {
			t.Errorf("%s: %d messages, and the next look is in %v", name, len(messages), next.Sub(now))
		}
		set := clocktest.Shift(now.Add(n.After+time.Second), -2*time.Hour) // while it runs, too
		messages, _ := k.Digest.due(set)
		if len(messages) != 1 || messages[0].Message.Title != "fiber is down" {
			t.Errorf("%s: %+v", name, messages)
		}
	}
}
