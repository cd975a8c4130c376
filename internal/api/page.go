package api

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

// page is the dashboard: one file, which fetches nothing from anywhere else.
//
//go:embed page.html
var page string

// dashboard serves the page under a policy that lets it run its own script and style, known by their
// digests, talk to where it came from, and do nothing else. Should a text of somebody else's ever become
// markup by a mistake, it could not run. With changes it offers to take the token that they need.
func dashboard(changes bool) http.HandlerFunc {
	page := page
	if changes {
		page = strings.Replace(page, `data-changes=""`, `data-changes="token"`, 1)
	}
	policy := fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; connect-src 'self'; img-src data:; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", digest("script"), digest("style"))
	sum := sha256.Sum256([]byte(page))
	tag := fmt.Sprintf(`"%x"`, sum[:8])
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		if matches(r.Header.Values("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", "text/html; charset=utf-8")
		// A client that is gone is no fault of ours; net/http closes the connection.
		_, _ = w.Write([]byte(page))
	}
}

// digest is the source expression for the page's only element of a name (CSP level 3, section 8.4).
func digest(element string) string {
	_, rest, _ := strings.Cut(page, "<"+element+">")
	content, _, _ := strings.Cut(rest, "</"+element+">")
	sum := sha256.Sum256([]byte(content))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
