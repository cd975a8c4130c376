package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

var mqttOptions = []string{"discovery", "client"}

var (
	mqttKind    = kind{scheme: "mqtt", example: "mqtt://user@192.0.2.10/uplinkd", secret: "the password of the user", parse: parseMQTT, options: mqttOptions}
	mqttTLSKind = kind{scheme: "mqtts", example: "mqtts://user@mqtt.example.net/uplinkd", secret: mqttKind.secret, parse: parseMQTT, options: mqttOptions}
)

const (
	// mqttTimeout bounds a connection, and the wait for the acknowledgment of what is published.
	mqttTimeout = 20 * time.Second
	// mqttKeepAlive is how often a silent connection is asked: a broker tells others that we are gone after one and a half.
	mqttKeepAlive = 30 * time.Second
	// atLeastOnce is the quality of service of all that is published (MQTT 3.1.1 section 4.3.2).
	atLeastOnce = 1
)

var errConnectionLost = errors.New("the connection to the broker is lost")

// broker publishes to an MQTT 3.1.1 broker, below prefix: "message" is each message, "headline" and "uplinks/NAME" what there is now, which
// the broker retains, and "availability" whether we are there. With discovery, Home Assistant makes its entities of that by itself
// (home-assistant.io/integrations/mqtt, "MQTT discovery").
type broker struct {
	options           *mqtt.ClientOptions
	prefix, discovery string
	client            mqtt.Client // nil: not connected yet
	lost              chan struct{}
	shown             []string // uplinks that the broker holds something of
}

func parseMQTT(u *url.URL, secret string) (Service, error) {
	query := u.Query()
	b := &broker{prefix: strings.Trim(u.Path, "/"), discovery: query.Get("discovery"), lost: make(chan struct{}, 1)}
	switch {
	case b.prefix == "":
		b.prefix = "uplinkd"
	case strings.ContainsAny(b.prefix, "+#\x00"):
		return nil, errors.New("a topic has neither + nor #")
	}
	switch b.discovery {
	case "":
		b.discovery = "homeassistant"
	case "off":
		b.discovery = ""
	}
	if strings.ContainsAny(b.discovery, "+#\x00") {
		return nil, errors.New("discovery is a topic, which has neither + nor #, or off")
	}
	scheme, port := "tcp", "1883"
	if u.Scheme == "mqtts" {
		scheme, port = "ssl", "8883"
	}
	if p := u.Port(); p != "" {
		port = p
	}
	client := query.Get("client")
	if client == "" {
		client = b.node()
	}
	b.options = mqtt.NewClientOptions().AddBroker(scheme+"://"+net.JoinHostPort(u.Hostname(), port)).SetClientID(client).
		SetUsername(u.User.Username()).SetPassword(secret).SetProtocolVersion(4).
		SetConnectTimeout(mqttTimeout).SetWriteTimeout(mqttTimeout).SetKeepAlive(mqttKeepAlive).SetPingTimeout(mqttKeepAlive/3).
		SetMaxReconnectInterval(time.Minute).SetAutoReconnect(true).SetOrderMatters(false).SetStore(noStore{}).
		SetConnectionLostHandler(func(mqtt.Client, error) {
			select {
			case b.lost <- struct{}{}:
			default:
			}
		}).
		SetWill(b.topic("availability"), "offline", atLeastOnce, true).
		SetOnConnectHandler(func(c mqtt.Client) { c.Publish(b.topic("availability"), atLeastOnce, true, "online") })
	return b, nil
}

func (b *broker) topic(parts ...string) string { return b.prefix + "/" + strings.Join(parts, "/") }

// node is the prefix as the identifier of a device: letters, digits, _ and - alone.
func (b *broker) node() string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, b.prefix)
}

func (b *broker) Send(ctx context.Context, m Message) error {
	return b.publish(ctx, b.topic("message"), false, m)
}

// Publish shows the state, and takes away what is shown of uplinks that are no more.
func (b *broker) Publish(ctx context.Context, s State) error {
	if err := b.publish(ctx, b.topic("headline"), true, s.Headline); err != nil {
		return err
	}
	if err := b.announce(ctx, "sensor", "headline", map[string]any{"name": "Internet", "icon": "mdi:web", "state_topic": b.topic("headline")}); err != nil {
		return err
	}
	for _, name := range b.shown {
		if slices.ContainsFunc(s.Uplinks, func(u UplinkState) bool { return u.Name == name }) {
			continue
		}
		if err := errors.Join(b.publish(ctx, b.topic("uplinks", name), true, nil), b.announce(ctx, "binary_sensor", name, nil)); err != nil {
			return err
		}
	}
	b.shown = nil
	for _, u := range s.Uplinks {
		b.shown = append(b.shown, u.Name)
		topic := b.topic("uplinks", u.Name)
		state := map[string]any{"online": u.Online, "ipv4": u.IPv4, "ipv6": u.IPv6, "share": u.Share}
		if err := b.publish(ctx, topic, true, state); err != nil {
			return err
		}
		if err := b.announce(ctx, "binary_sensor", u.Name, map[string]any{"name": u.Name, "device_class": "connectivity", "state_topic": topic,
			"value_template": "{{ 'ON' if value_json.online else 'OFF' }}", "json_attributes_topic": topic}); err != nil {
			return err
		}
	}
	return nil
}

// announce publishes what Home Assistant makes an entity of; nil takes it away.
func (b *broker) announce(ctx context.Context, component, object string, entity map[string]any) error {
	if b.discovery == "" {
		return nil
	}
	id := b.node() + "_" + object
	topic := strings.Join([]string{b.discovery, component, id, "config"}, "/")
	if entity == nil {
		return b.publish(ctx, topic, true, nil)
	}
	entity["unique_id"], entity["object_id"] = id, id
	entity["availability_topic"] = b.topic("availability")
	entity["device"] = map[string]any{"identifiers": []string{b.node()}, "name": b.prefix, "manufacturer": "uplinkd"}
	entity["origin"] = map[string]any{"name": "uplinkd"}
	return b.publish(ctx, topic, true, entity)
}

// publish waits for the broker's acknowledgment. A string goes as it is, nil as nothing, which takes away what is retained, anything else in JSON.
func (b *broker) publish(ctx context.Context, topic string, retain bool, value any) error {
	var payload []byte
	switch v := value.(type) {
	case nil:
	case string:
		payload = []byte(v)
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return &Refusal{Reason: err.Error(), Message: true}
		}
		payload = text
	}
	if err := b.connect(ctx); err != nil {
		return err
	}
	select {
	case <-b.lost: // an earlier connection
	default:
	}
	if !b.client.IsConnectionOpen() {
		return errConnectionLost
	}
	return b.acknowledged(ctx, b.client.Publish(topic, atLeastOnce, retain, payload))
}

func (b *broker) connect(ctx context.Context) error {
	if b.client != nil {
		return nil
	}
	client := mqtt.NewClient(b.options)
	token := client.Connect()
	if err := b.acknowledged(ctx, token); err != nil {
		client.Disconnect(0)
		if t, ok := token.(*mqtt.ConnectToken); ok {
			switch t.ReturnCode() {
			case packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised, packets.ErrRefusedIDRejected, packets.ErrRefusedBadProtocolVersion:
				return &Refusal{Reason: err.Error()}
			}
		}
		return err
	}
	b.client = client
	return nil
}

// acknowledged waits for what the broker says of a packet.
func (b *broker) acknowledged(ctx context.Context, token mqtt.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case <-b.lost:
		return errConnectionLost
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(mqttTimeout):
		return fmt.Errorf("the broker has not answered for %v", mqttTimeout)
	}
}

// Close says goodbye: a will is for those who could not.
func (b *broker) Close() {
	if b.client == nil {
		return
	}
	if b.client.IsConnectionOpen() {
		_ = b.publish(context.Background(), b.topic("availability"), true, "offline") // the will says it else
	}
	b.client.Disconnect(uint(time.Second.Milliseconds()))
	b.client = nil
}

// noStore keeps nothing for the next connection: who publishes hears of the loss and tries again. A store would send a second time what is
// published while it is read (eclipse-paho/paho.mqtt.golang issue 703).
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
