package service

import (
	"context"
	"net/http"
	"net/url"
)

var (
	webKind    = kind{scheme: "http", example: "http://192.0.2.10/uplinkd", secret: "a token, sent as Authorization: Bearer", parse: parseWeb}
	webTLSKind = kind{scheme: "https", example: "https://hooks.example.net/uplinkd", secret: webKind.secret, parse: parseWeb}
)

// web posts messages as they are, in JSON.
type web struct {
	url    *url.URL
	secret string
}

func parseWeb(u *url.URL, secret string) (Service, error) { return &web{u, secret}, nil }

func (w *web) Send(ctx context.Context, m Message) error {
	header := http.Header{"Idempotency-Key": {m.ID}}
	if w.secret != "" {
		header.Set("Authorization", "Bearer "+w.secret)
	}
	return post(ctx, w.url, header, m)
}

func (*web) Close() {}
