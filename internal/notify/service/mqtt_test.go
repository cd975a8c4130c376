package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
)

// mosquitto starts the broker of that name with one user, "router", whose password is "right". It returns how to end it.
func mosquitto(t *testing.T, port int) (end func()) {
	t.Helper()
	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwords")
	for _, args := range [][]string{{"mosquitto_passwd", "-b", "-c", passwords, "router", "right"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("the Debian package mosquitto is needed (make deps): %v: %s", err, out)
		}
	}
	config := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("user root\nlistener %d 127.0.0.1\nallow_anonymous false\npassword_file %s\n", port, passwords)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(end)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
			return end
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// subscriber collects what the broker tells a subscriber of all topics: the real mosquitto_sub.
type subscriber struct{ lines chan string }

func subscribe(t *testing.T, port int) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "mosquitto_sub", "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-u", "router", "-P", "right", "-v", "-t", "#")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("the Debian package mosquitto-clients is needed (make deps): %v", err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	s := &subscriber{make(chan string, 100)}
	go func() {
		defer close(s.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
	}()
	return s
}

// await returns the payload of the next message of a topic.
func (s *subscriber) await(t *testing.T, topic string) string {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line := <-s.lines:
			if of, payload, _ := strings.Cut(line, " "); of == topic {
				return payload
			}
		case <-timeout:
			t.Fatalf("no message of %s", topic)
		}
	}
}

func TestABrokerShowsTheStateAndPassesMessages(t *testing.T) {
	const port = 18831
	end := mosquitto(t, port)
	url := fmt.Sprintf("mqtt://router@127.0.0.1:%d/home/router", port)
	b := parse(t, url, "right").(Publisher)
	state := State{Headline: "Online by fiber.", Uplinks: []UplinkState{{"fiber", true, "up", "up", 1}, {"lte", true, "up", "disabled", 0}}}
	if err := b.Publish(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	s := subscribe(t, port) // later than that: what it sees is retained
	for topic, want := range map[string]string{
		"home/router/headline":      "Online by fiber.",
		"home/router/uplinks/fiber": `{"ipv4":"up","ipv6":"up","online":true,"share":1}`,
		"home/router/availability":  "online",
	} {
		s := subscribe(t, port)
		if got := s.await(t, topic); got != want {
			t.Errorf("%s: %s", topic, got)
		}
	}
	var entity map[string]any
	if err := json.Unmarshal([]byte(s.await(t, "homeassistant/binary_sensor/home_router_lte/config")), &entity); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"name": "lte", "device_class": "connectivity", "state_topic": "home/router/uplinks/lte", "json_attributes_topic": "home/router/uplinks/lte",
		"value_template": "{{ 'ON' if value_json.online else 'OFF' }}", "unique_id": "home_router_lte", "object_id": "home_router_lte",
		"availability_topic": "home/router/availability", "origin": map[string]any{"name": "uplinkd"},
		"device": map[string]any{"identifiers": []any{"home_router"}, "name": "home/router", "manufacturer": "uplinkd"}}
	if diff := cmp.Diff(want, entity); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := b.Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	if got := s.await(t, "home/router/message"); !strings.Contains(got, `"title":"fiber is down"`) {
		t.Error(got)
	}
	// An uplink that is no more leaves nothing behind.
	if err := b.Publish(t.Context(), State{Headline: "Online by fiber.", Uplinks: state.Uplinks[:1]}); err != nil {
		t.Fatal(err)
	}
	if got := s.await(t, "homeassistant/binary_sensor/home_router_lte/config"); got != "" && got != "(null)" {
		t.Errorf("of an uplink that is gone: %s", got)
	}
	// A broker that dies is missed, and found again.
	end()
	if err := b.Send(t.Context(), message()); err == nil {
		t.Error("a broker that is dead took a message")
	}
	mosquitto(t, port)
	deadline := time.Now().Add(30 * time.Second)
	for err := b.Send(t.Context(), message()); err != nil; err = b.Send(t.Context(), message()) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	after := subscribe(t, port)
	if err := b.Publish(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	if got := after.await(t, "home/router/availability"); got != "online" {
		t.Errorf("after the broker's restart: %s", got)
	}
	b.Close()
	if got := after.await(t, "home/router/availability"); got != "offline" {
		t.Errorf("after the end: %s", got)
	}
}

func TestABrokerThatRefusesUs(t *testing.T) {
	const port = 18832
	mosquitto(t, port)
	err := parse(t, fmt.Sprintf("mqtt://router@127.0.0.1:%d", port), "wrong").Send(t.Context(), message())
	if _, refused := errors.AsType[*Refusal](err); !refused {
		t.Errorf("a wrong password: %v", err)
	}
	err = parse(t, "mqtt://127.0.0.1:1", "").Send(t.Context(), message())
	if _, refused := errors.AsType[*Refusal](err); err == nil || refused {
		t.Errorf("nobody there: %v", err)
	}
}

// A message that was under way when the connection was lost is an error at once, which its queue tries again; the client itself sends nothing twice.
func TestABrokerThatIsLostBeforeItAcknowledges(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	published := make(chan *packets.PublishPacket, 100)
	go func() {
		for first := true; ; first = false {
			conn, err := listener.Accept()
			if err != nil {
				close(published)
				return
			}
			serveOnce(conn, published, first)
		}
	}()
	b := parse(t, "mqtt://"+listener.Addr().String()+"/home", "").(Publisher)
	defer b.Close()
	if err := b.Send(t.Context(), message()); !errors.Is(err, errConnectionLost) {
		t.Errorf("a message without an acknowledgment: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := b.Send(t.Context(), message())
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	b.Close()
	listener.Close()
	seen := map[string]int{}
	for p := range published {
		seen[p.TopicName+" "+string(p.Payload)]++
		if p.Dup {
			t.Errorf("sent by the client a second time: %s", p)
		}
	}
	for published, times := range seen {
		switch topic, _, _ := strings.Cut(published, " "); {
		case topic == "home/message" && times != 2: // before and after the loss
			t.Errorf("%s: %d times, want 2", published, times)
		case times > 2: // once a connection
			t.Errorf("%s: %d times", published, times)
		}
	}
	if len(seen) != 3 { // the message, online, offline
		t.Errorf("published: %v", seen)
	}
}

// serveOnce is a broker for one connection: it takes what is published; lossy ones end at the first message instead of acknowledging it.
func serveOnce(conn net.Conn, published chan<- *packets.PublishPacket, lossy bool) {
	defer conn.Close()
	for {
		packet, err := packets.ReadPacket(conn)
		if err != nil {
			return
		}
		var answer packets.ControlPacket
		switch p := packet.(type) {
		case *packets.ConnectPacket:
			answer = packets.NewControlPacket(packets.Connack)
		case *packets.PublishPacket:
			published <- p
			if lossy && p.TopicName == "home/message" {
				return
			}
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = p.MessageID
			answer = ack
		case *packets.DisconnectPacket:
			return
		default:
			continue
		}
		if answer.Write(conn) != nil {
			return
		}
	}
}
