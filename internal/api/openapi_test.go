package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// description is what the test reads of openapi.json.
type description struct {
	OpenAPI    string
	Paths      map[string]map[string]json.RawMessage
	Components struct{ Schemas map[string]*schema }
}

type operation struct {
	Parameters []struct {
		Name, In string
		Required bool
	}
	Responses map[string]struct {
		Content map[string]struct{ Schema *schema }
	}
}

// schema is the part of JSON Schema that the description uses. A keyword that is not here fails the test.
type schema struct {
	Ref                  string             `json:"$ref"`
	Type                 any                `json:"type"`
	Description          string             `json:"description"`
	Enum                 []string           `json:"enum"`
	Required             []string           `json:"required"`
	Properties           map[string]*schema `json:"properties"`
	AdditionalProperties *bool              `json:"additionalProperties"`
	Items                *schema            `json:"items"`
}

func readDescription(t *testing.T) *description {
	t.Helper()
	var d description
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return &d
}

func (d *description) operation(t *testing.T, path, method string) *operation {
	t.Helper()
	raw, ok := d.Paths[path][strings.ToLower(method)]
	if !ok {
		t.Fatalf("%s %s is not described", method, path)
	}
	var o operation
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

// check returns what of a value does not fit a schema.
func (d *description) check(s *schema, at string, v any) []string {
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		if d.Components.Schemas[name] == nil {
			return []string{at + ": no schema " + name}
		}
		return d.check(d.Components.Schemas[name], at, v)
	}
	if !ofType(s.Type, v) {
		return []string{fmt.Sprintf("%s is %v, not %v", at, v, s.Type)}
	}
	var wrong []string
	switch v := v.(type) {
	case string:
		if s.Enum != nil && !slices.Contains(s.Enum, v) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, none of %v", at, v, s.Enum))
		}
	case []any:
		for i, x := range v {
			wrong = append(wrong, d.check(s.Items, fmt.Sprintf("%s[%d]", at, i), x)...)
		}
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				wrong = append(wrong, at+" lacks "+name)
			}
		}
		for name, x := range v {
			switch p := s.Properties[name]; {
			case p != nil:
				wrong = append(wrong, d.check(p, at+"."+name, x)...)
			case s.AdditionalProperties == nil || !*s.AdditionalProperties:
				wrong = append(wrong, at+" has "+name+", which is not described")
			}
		}
	}
	return wrong
}

func ofType(want, v any) bool {
	if list, ok := want.([]any); ok {
		return slices.ContainsFunc(list, func(w any) bool { return ofType(w, v) })
	}
	switch v := v.(type) {
	case nil:
		return want == "null"
	case bool:
		return want == "boolean"
	case string:
		return want == "string"
	case float64:
		return want == "number" || want == "integer" && v == math.Trunc(v)
	case []any:
		return want == "array"
	}
	return want == "object"
}

// TestTheDescriptionNamesEveryCodeOfAVerdict compares lists: not every code is in an answer of the other tests.
func TestTheDescriptionNamesEveryCodeOfAVerdict(t *testing.T) {
	var want []string
	for _, c := range uplink.Codes {
		want = append(want, string(c))
	}
	family := readDescription(t).Components.Schemas["Family"]
	if diff := cmp.Diff(want, family.Properties["code"].Enum); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheDescriptionNamesEveryRouteAndNoOther(t *testing.T) {
	d := readDescription(t)
	s := newServer(newDaemon(), func(o *Options) {
		o.Metrics, o.Examine = NewMetrics("test", func() []status.PathVerdict { return nil }), found
	})
	f := &listenerHandler{Server: s}
	var served []string
	for path := range f.routes() {
		served = append(served, strings.TrimSuffix(path, "{$}"))
	}
	slices.Sort(served)
	if described := slices.Sorted(maps.Keys(d.Paths)); !slices.Equal(served, described) {
		t.Errorf("served    %v\ndescribed %v", served, described)
	}
	if w := ask(s.handler(false), "GET", "/api/v1/openapi.json"); w.Code != 200 || w.Body.String() != string(openAPI) {
		t.Errorf("the description is not served: %d", w.Code)
	}
	for path, methods := range d.Paths {
		for method := range methods {
			if method == "parameters" {
				continue
			}
			w := ask(s.handler(true), strings.ToUpper(method), strings.ReplaceAll(path, "{name}", "fiber")+"?follow=0&to=192.0.2.1")
			if w.Code == http.StatusMethodNotAllowed || w.Code == http.StatusNotFound {
				t.Errorf("%s %s is described and answers %d", method, path, w.Code)
			}
		}
	}
	parameters := d.operation(t, "/api/v1/explain", "GET").Parameters
	known := []string{withoutKey}
	for _, key := range PacketKeys() {
		known = append(known, key.Name)
	}
	if len(parameters) != len(known) {
		t.Errorf("explain has %d parameters, %d are described", len(known), len(parameters))
	}
	for _, p := range parameters {
		if !slices.Contains(known, p.Name) || p.Required != (p.Name == "to") {
			t.Errorf("parameter %+v", p)
		}
	}
	for _, state := range uplink.States {
		if !slices.Contains(d.Components.Schemas["Family"].Properties["state"].Enum, string(state)) {
			t.Errorf("the verdict %s is not described", state)
		}
	}
}

func TestAnswersAreAsDescribed(t *testing.T) {
	d := readDescription(t)
	source := newDaemon()
	s := newServer(source, func(o *Options) { o.Token, o.Examine = "the token of this test", found })
	for i := range 20 {
		s.o.Events.Append(status.Event{Kind: status.EventVerdict, Uplink: "fiber", Family: "ipv4", From: "up", To: "down", Evidence: []string{fmt.Sprint(i)}})
	}
	h := s.handler(false)
	for _, q := range []struct {
		method, path, target string
		code                 int
		header               string
		prepare              func()
	}{
		{"GET", "/api/v1/status", "", 200, "", nil},
		{"GET", "/api/v1/uplinks/{name}", "/api/v1/uplinks/lte", 200, "", nil},
		{"GET", "/api/v1/uplinks/{name}", "/api/v1/uplinks/nobody", 404, "", nil},
		{"GET", "/api/v1/events", "/api/v1/events?follow=0", 200, "", nil},
		{"GET", "/api/v1/events", "/api/v1/events?after=x", 400, "", nil},
		{"GET", "/api/v1/history", "", 200, "", nil},
		{"GET", "/api/v1/history", "/api/v1/history?range=1y", 400, "", nil},
		{"GET", "/api/v1/explain", "/api/v1/explain?to=192.0.2.1", 200, "", nil},
		{"GET", "/api/v1/doctor", "", 200, "", nil},
		{"GET", "/api/v1/explain", "/api/v1/explain?to=x", 400, "", nil},
		{"GET", "/api/v1/explain", "/api/v1/explain?to=192.0.2.1&without=dsl", 404, "", nil},
		{"POST", "/api/v1/uplinks/{name}/drain", "/api/v1/uplinks/fiber/drain", 401, "", nil},
		{"POST", "/api/v1/uplinks/{name}/drain", "/api/v1/uplinks/fiber/drain", 403, "Origin: http://evil.example", nil},
		{"POST", "/api/v1/uplinks/{name}/drain", "/api/v1/uplinks/fiber/drain?now=perhaps", 400, "Authorization: Bearer the token of this test", nil},
		{"POST", "/api/v1/uplinks/{name}/undrain", "/api/v1/uplinks/nobody/undrain", 404, "Authorization: Bearer the token of this test", nil},
		{"POST", "/api/v1/reload", "", 204, "Authorization: Bearer the token of this test", nil},
		{"POST", "/api/v1/reload", "", 422, "Authorization: Bearer the token of this test", func() { source.reloadErr = ErrBadConfig }},
		{"POST", "/api/v1/pair/yield", "", 204, "Authorization: Bearer the token of this test", nil},
		{"POST", "/api/v1/pair/yield", "", 401, "", nil},
		{"POST", "/api/v1/pair/yield", "", 409, "Authorization: Bearer the token of this test", func() { source.yieldErr = errors.New("the other router is not heard") }},
		{"GET", "/api/v1/usage", "", 200, "", nil},
		{"GET", "/api/v1/report", "", 200, "", nil},
		{"GET", "/api/v1/report", "/api/v1/report?month=2026-11", 200, "", nil},
		{"GET", "/api/v1/report", "/api/v1/report?month=November", 400, "", nil},
		{"GET", "/healthz", "", 200, "", nil},
		{"GET", "/healthz", "", 503, "", func() { source.health = ErrNotRunning }},
	} {
		if q.prepare != nil {
			q.prepare()
		}
		target := q.target
		if target == "" {
			target = q.path
		}
		var header []string
		if q.header != "" {
			header = append(header, q.header)
		}
		w := ask(h, q.method, target, header...)
		name := fmt.Sprintf("%s %s, %d", q.method, target, q.code)
		if w.Code != q.code {
			t.Errorf("%s: it answers %d %s", name, w.Code, w.Body)
			continue
		}
		response, ok := d.operation(t, q.path, q.method).Responses[fmt.Sprint(q.code)]
		if !ok {
			t.Errorf("%s: that code is not described", name)
			continue
		}
		if w.Code == http.StatusNoContent {
			continue
		}
		kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
		content, ok := response.Content[kind]
		if !ok {
			t.Errorf("%s: the type %s is not described", name, kind)
			continue
		}
		for _, text := range bodies(kind, w.Body.String()) {
			var v any = text
			if kind != "text/plain" {
				if err := json.Unmarshal([]byte(text), &v); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, wrong := range d.check(content.Schema, "answer", v) {
				t.Errorf("%s: %s", name, wrong)
			}
		}
	}
}

// bodies splits a stream of events into the JSON of each.
func bodies(kind, body string) []string {
	if kind != "text/event-stream" {
		return []string{body}
	}
	var list []string
	for line := range strings.Lines(body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			list = append(list, data)
		}
	}
	return list
}

// TestTheCheckFindsWhatDoesNotFit keeps the test above from passing by not looking.
func TestTheCheckFindsWhatDoesNotFit(t *testing.T) {
	d := readDescription(t)
	for text, want := range map[string]string{
		`{"target":"x","up":true}`:                      "answer lacks rtt_ms",
		`{"target":"x","up":true,"rtt_ms":1,"extra":1}`: "answer has extra, which is not described",
		`{"target":"x","up":"yes","rtt_ms":1}`:          "answer.up is yes, not boolean",
		`{"target":null,"up":true,"rtt_ms":1}`:          "answer.target is <nil>, not string",
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if wrong := d.check(&schema{Ref: "#/components/schemas/Target"}, "answer", v); len(wrong) != 1 || wrong[0] != want {
			t.Errorf("%s: %q, want %q", text, wrong, want)
		}
	}
}
