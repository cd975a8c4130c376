package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const telegramExample = "telegram://api.telegram.org/123456789"

var telegramKind = kind{scheme: "telegram", example: telegramExample, secret: "the token of the bot", needsSecret: true, parse: parseTelegram,
	options: []string{"tls"}}

// telegram sends to a chat by a bot (core.telegram.org/bots/api, sendMessage).
type telegram struct {
	url    *url.URL
	chat   string
	secret string
}

func parseTelegram(u *url.URL, secret string) (Service, error) {
	base, err := baseURL(u)
	if err != nil {
		return nil, err
	}
	chat := strings.TrimPrefix(base.Path, "/")
	if chat == "" || strings.Contains(chat, "/") {
		return nil, fmt.Errorf("no chat is named: write its number, or @ and the name of a channel, as in %s", telegramExample)
	}
	if strings.Trim(secret, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:_-") != "" {
		return nil, errors.New("the secret is not a bot's token, which looks like 123456789:AbCdEf")
	}
	base.Path = "/bot" + secret + "/sendMessage"
	return &telegram{base, chat, secret}, nil
}

func (t *telegram) Send(ctx context.Context, m Message) error {
	return post(ctx, t.url, make(http.Header), map[string]any{
		"chat_id": t.chat, "text": m.Title + "\n" + m.Text, "disable_notification": m.Priority == Info})
}

func (*telegram) Close() {}
