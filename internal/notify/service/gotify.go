package service

import (
	"context"
	"net/http"
	"net/url"
)

var gotifyKind = kind{scheme: "gotify", example: "gotify://gotify.example.net", secret: "the token of an application", needsSecret: true, parse: parseGotify,
	options: []string{"tls"}}

// gotify creates messages of an application (gotify.net/api-docs, POST /message).
type gotify struct {
	url    *url.URL
	secret string
}

func parseGotify(u *url.URL, secret string) (Service, error) {
	base, err := baseURL(u)
	if err != nil {
		return nil, err
	}
	base.Path += "/message"
	return &gotify{base, secret}, nil
}

func (g *gotify) Send(ctx context.Context, m Message) error {
	return post(ctx, g.url, http.Header{"X-Gotify-Key": {g.secret}}, map[string]any{
		"title": m.Title, "message": m.Text, "priority": [...]int{Info: 3, Warning: 5, Critical: 8}[m.Priority]})
}

func (*gotify) Close() {}
