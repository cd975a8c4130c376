package service

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const ntfyExample = "ntfy://ntfy.example.net/home"

var ntfyKind = kind{scheme: "ntfy", example: ntfyExample, secret: "an access token, where the topic wants one", parse: parseNtfy,
	options: []string{"tls"}}

// ntfy publishes to a topic (docs.ntfy.sh/publish, "Publish as JSON").
type ntfy struct {
	url           *url.URL
	topic, secret string
}

func parseNtfy(u *url.URL, secret string) (Service, error) {
	base, err := baseURL(u)
	if err != nil {
		return nil, err
	}
	cut := strings.LastIndexByte(base.Path, '/')
	if cut < 0 || base.Path[cut+1:] == "" {
		return nil, fmt.Errorf("no topic is named: write it as in %s", ntfyExample)
	}
	n := &ntfy{base, base.Path[cut+1:], secret}
	n.url.Path = base.Path[:cut] + "/"
	return n, nil
}

func (n *ntfy) Send(ctx context.Context, m Message) error {
	header := make(http.Header)
	if n.secret != "" {
		header.Set("Authorization", "Bearer "+n.secret)
	}
	look := [...]struct {
		priority int
		tag      string
	}{Info: {3, "white_check_mark"}, Warning: {4, "warning"}, Critical: {5, "rotating_light"}}[m.Priority]
	return post(ctx, n.url, header, map[string]any{
		"topic": n.topic, "title": m.Title, "message": m.Text, "priority": look.priority, "tags": []string{look.tag}})
}

func (*ntfy) Close() {}
