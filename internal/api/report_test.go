package api

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestReportsAreWritten(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	var b bytes.Buffer
	if err := WriteReport(&b, sampleReport(), zone); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", b.Bytes())
	b.Reset()
	if err := WriteReportHTML(&b, sampleReport(), zone); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.html", b.Bytes())
	b.Reset()
	if err := WriteReportCSV(&b, sampleReport()); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.csv", b.Bytes())
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%q, %v", rows, err)
	}
	if got := rows[3][7]; got != "'=cmd()" {
		t.Errorf("a formula is written as %q", got)
	}
	b.Reset()
	if err := WriteReport(&b, status.Report{Month: "2026-09", Months: []string{"2026-11"}}, zone); err != nil || !strings.Contains(b.String(), "nothing was seen in this month; there are 2026-11\n") {
		t.Errorf("%s, %v", &b, err)
	}
}

// What the page says comes from targets and providers: none of it is markup, and nothing is fetched.
func TestTheReportsPageIsWholeAndFetchesNothing(t *testing.T) {
	r := sampleReport()
	const evil = `<script src="https://192.0.2.66/x"></script><img src=x onerror=y>`
	r.Month, r.Uplinks[0].Name = evil, evil
	for i := range r.Uplinks[0].Families[0].Outages {
		r.Uplinks[0].Families[0].Outages[i].Cause, r.Uplinks[0].Families[0].Outages[i].Evidence = evil, []string{evil}
	}
	var b bytes.Buffer
	if err := WriteReportHTML(&b, r, time.UTC); err != nil {
		t.Fatal(err)
	}
	tokens, open := html.NewTokenizer(&b), []string{}
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			if len(open) > 0 {
				t.Errorf("%q are not closed", open)
			}
			return
		case html.StartTagToken:
			tag := tokens.Token()
			if tag.Data == "script" || tag.Data == "img" || tag.Data == "link" {
				t.Errorf("there is a %s", tag)
			}
			if tag.Data != "meta" {
				open = append(open, tag.Data)
			}
		case html.EndTagToken:
			tag := tokens.Token()
			if len(open) == 0 || open[len(open)-1] != tag.Data {
				t.Fatalf("%s closes %q", tag, open)
			}
			open = open[:len(open)-1]
		}
	}
}
