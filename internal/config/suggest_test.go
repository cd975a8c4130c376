package config

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"name", "device", "tier", "weight", "targets", "min_targets_up", "masquerade", "fast_interval"}
	for _, tt := range []struct{ word, want string }{
		{"weigth", "weight"},
		{"Weight", "weight"},
		{"target", "targets"},
		{"fast-interval", "fast_interval"},
		{"fastInterval", "fast_interval"},
		{"min_target_up", "min_targets_up"},
		{"iface", "device"},
		{"NAT", "masquerade"},
		{"metric", "tier"},
		{"colour", ""},
		{"x", ""},
		{"", ""},
	} {
		if got := nearest(tt.word, names); got != tt.want {
			t.Errorf("nearest(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"tier", "tier", 0}, {"teir", "tier", 1}, {"tire", "tier", 1}, {"teer", "tier", 1},
		{"device", "devices", 1}, {"abcdef", "uvwxyz", 4},
	} {
		for _, got := range []int{distance(tt.a, tt.b, 4), distance(tt.b, tt.a, 4)} {
			if got != tt.want {
				t.Errorf("distance of %q and %q = %d, want %d", tt.a, tt.b, got, tt.want)
			}
		}
	}
}
