package offline

import "github.com/uplinkd/uplinkd/internal/doctor"

// forwardsRefused asks the packet filters of others about calls of forwarded ports.
func forwardsRefused(in *session, obs *doctor.Observation) (refused []doctor.RefusedForward, err error) {
	calls := obs.Calls()
	if len(calls) == 0 {
		return nil, nil
	}
	firewall, err := in.kernel.Firewall()
	if err != nil {
		return nil, err
	}
	for _, c := range calls {
		if c.By, err = firewall.Refuses(c.Family, c.Device, c.LAN); err != nil {
			return nil, err
		}
		if c.By != "" {
			refused = append(refused, c)
		}
	}
	return refused, nil
}
