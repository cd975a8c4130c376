package api

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

// report answers ?month=2026-11.
func (l *listenerHandler) report(w http.ResponseWriter, r *http.Request) {
	month := r.URL.Query().Get("month")
	report, ok := l.o.Meter.Report(month)
	if !ok {
		writeError(w, http.StatusBadRequest, fmt.Sprintf("month=%q is no month: write 2026-11, for example", month))
		return
	}
	body, err := json.Marshal(report)
	if err != nil {
		l.fail(w, r, fmt.Errorf("encoding the report: %w", err))
		return
	}
	writeBody(w, http.StatusOK, body)
}

// Report returns how the uplinks were in a month, "" for the present one.
func (c *Client) Report(ctx context.Context, month string) (status.Report, error) {
	path := "/api/v1/report"
	if month != "" {
		path += "?month=" + url.QueryEscape(month)
	}
	var r status.Report
	err := c.get(ctx, path, "the report", &r)
	return r, err
}

const reportTime = "2006-01-02 15:04:05"

// WriteReport writes r for people, its times in a zone.
func WriteReport(w io.Writer, r status.Report, zone *time.Location) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, until %s\n", clean(r.Month), r.Until.In(zone).Format(reportTime))
	if len(r.Uplinks) == 0 {
		b.WriteString("nothing was seen in this month" + otherMonths(&r) + "\n")
	}
	for i := range r.Uplinks {
		u := &r.Uplinks[i]
		fmt.Fprintf(&b, "\n%s: received %s, sent %s, %d flows out, %d in\n", clean(u.Name), amount(u.ReceivedBytes), amount(u.SentBytes), u.FlowsOut, u.FlowsIn)
		for j := range u.Families {
			f := &u.Families[j]
			fmt.Fprintf(&b, "  %s  available %s, down %s in %s", clean(f.Family), availability(f), seconds(float64(f.DownS)), count(len(f.Outages), "outage"))
			if f.UnwatchedS > 0 {
				fmt.Fprintf(&b, ", not seen for %s", seconds(float64(f.UnwatchedS)))
			}
			if f.RTTp50ms > 0 {
				fmt.Fprintf(&b, "\n        latency %s: half of the answers, %s: 95 %%, %s: 99 %%", millis(f.RTTp50ms), millis(f.RTTp95ms), millis(f.RTTp99ms))
			}
			b.WriteByte('\n')
			for _, o := range f.Outages {
				fmt.Fprintf(&b, "    %s  %-9s  %s\n", o.Begin.In(zone).Format(reportTime), seconds(o.LengthS), clean(cause(&o)))
				for _, e := range o.Evidence {
					fmt.Fprintf(&b, "      %s\n", clean(e))
				}
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteReportCSV writes the outages of r, one a line, behind a line of names. What a spreadsheet would take for a formula has an apostrophe
// before it.
func WriteReportCSV(w io.Writer, r status.Report) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"uplink", "family", "begin", "end", "length_s", "end_seen", "code", "cause", "common", "evidence"}) // Error tells
	for _, u := range r.Uplinks {
		for _, f := range u.Families {
			for _, o := range f.Outages {
				begin, _ := o.Begin.MarshalText()
				end, _ := o.End.MarshalText()
				row := []string{u.Name, f.Family, string(begin), string(end), strconv.FormatFloat(o.LengthS, 'f', 1, 64), strconv.FormatBool(o.EndSeen),
					o.Code, o.Cause, strconv.FormatBool(o.Common), strings.Join(o.Evidence, "; ")}
				for i := range row {
					if row[i] = clean(row[i]); strings.HasPrefix(row[i], "=") || strings.HasPrefix(row[i], "+") || strings.HasPrefix(row[i], "-") || strings.HasPrefix(row[i], "@") {
						row[i] = "'" + row[i]
					}
				}
				_ = out.Write(row)
			}
		}
	}
	out.Flush()
	return out.Error()
}

// reportStyle prints in black on white, a heading never at the end of a page, and no outage on two.
const reportStyle = `body{font:14px/1.5 system-ui,sans-serif;color:#111;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;break-after:avoid}h3{font-size:1rem;break-after:avoid}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #bbb;vertical-align:top}
thead{display:table-header-group}tr{break-inside:avoid}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
small{color:#444;display:block}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0}dt{color:#444}dd{margin:0}
@page{margin:18mm}@media print{body{margin:0;max-width:none;font-size:11pt}}`

// WriteReportHTML writes r as a page that stands alone and prints well, its times in a zone.
func WriteReportHTML(w io.Writer, r status.Report, zone *time.Location) error {
	var b strings.Builder
	p := func(format string, args ...any) {
		for i, a := range args {
			args[i] = html.EscapeString(clean(fmt.Sprint(a)))
		}
		fmt.Fprintf(&b, format, args...)
	}
	p("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Uplinks in %s</title>\n<style>", r.Month)
	b.WriteString(reportStyle)
	p("</style></head><body>\n<h1>Uplinks in %s</h1>\n<p>Until %s (%s). What was not seen, because uplinkd did not run, is neither up nor down.</p>\n",
		r.Month, r.Until.In(zone).Format(reportTime), r.Until.In(zone).Format("MST"))
	if len(r.Uplinks) == 0 {
		p("<p>Nothing was seen in this month%s.</p>\n", otherMonths(&r))
	}
	for i := range r.Uplinks {
		u := &r.Uplinks[i]
		p("<h2>%s</h2>\n<p>Received %s, sent %s; %s flows began here, %s on the other side.</p>\n", u.Name, amount(u.ReceivedBytes), amount(u.SentBytes), strconv.FormatInt(u.FlowsOut, 10), strconv.FormatInt(u.FlowsIn, 10))
		for j := range u.Families {
			f := &u.Families[j]
			p("<h3>%s</h3>\n<dl><dt>available</dt><dd>%s</dd><dt>down</dt><dd>%s in %s</dd><dt>not seen</dt><dd>%s</dd>",
				map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[f.Family], availability(f), seconds(float64(f.DownS)), count(len(f.Outages), "outage"), seconds(float64(f.UnwatchedS)))
			if f.RTTp50ms > 0 {
				p("<dt>latency</dt><dd>%s: half of the answers, %s: 95 %%, %s: 99 %%</dd>", millis(f.RTTp50ms), millis(f.RTTp95ms), millis(f.RTTp99ms))
			}
			b.WriteString("</dl>\n")
			if len(f.Outages) == 0 {
				continue
			}
			b.WriteString("<table><thead><tr><th>begin</th><th>end</th><th>length</th><th>cause, and what was seen</th></tr></thead><tbody>\n")
			for _, o := range f.Outages {
				end := "it lasts"
				if !o.End.IsZero() {
					end = o.End.In(zone).Format(reportTime)
				}
				p("<tr><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td>%s", o.Begin.In(zone).Format(reportTime), end, seconds(o.LengthS), cause(&o))
				for _, e := range o.Evidence {
					p("<small>%s</small>", e)
				}
				b.WriteString("</td></tr>\n")
			}
			b.WriteString("</tbody></table>\n")
		}
	}
	b.WriteString("</body></html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func otherMonths(r *status.Report) string {
	if len(r.Months) == 0 {
		return ""
	}
	return "; there are " + clean(strings.Join(r.Months, ", "))
}

func availability(f *status.ReportedFamily) string {
	if f.Availability == nil {
		return "unknown"
	}
	text := strconv.FormatFloat(100**f.Availability, 'f', 3, 64)
	if text == "100.000" && f.DownS > 0 {
		text = "99.999"
	}
	return text + " %"
}

// cause says why an uplink was down, with what is not certain about the outage.
func cause(o *status.Outage) string {
	text := o.Cause
	if o.Common {
		text += " (all uplinks were silent: the cause may be none of this line's)"
	}
	switch {
	case o.End.IsZero():
		text += " (it lasts)"
	case !o.EndSeen:
		text += " (uplinkd did not run when it ended: the length is what was seen)"
	}
	return text
}

func millis(m status.Millis) string { return fmt.Sprintf("%.3g ms", float64(m)) }

// seconds writes a length of time, in two units at most; tenths of a second below ten.
func seconds(s float64) string {
	if s > 0 && s < 9.95 {
		return fmt.Sprintf("%.1fs", s)
	}
	return age(time.Time{}.Add(time.Duration(s*float64(time.Second))), time.Time{})
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
