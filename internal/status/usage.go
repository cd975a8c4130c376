package status

// Usage is what metered uplinks have carried.
type Usage struct {
	Uplinks List[UplinkUsage] `json:"uplinks"`
}

// UplinkUsage is what one uplink has carried, both directions, the latest dates first.
type UplinkUsage struct {
	Name       string           `json:"name"`
	QuotaBytes int64            `json:"quota_bytes"` // a month; 0 for none
	OverQuota  bool             `json:"over_quota"`
	Days       List[DatedBytes] `json:"days"`
	Months     List[DatedBytes] `json:"months"`
}

// DatedBytes is an amount of a day ("2026-11-20") or of a month ("2026-11").
type DatedBytes struct {
	Date  string `json:"date"`
	Bytes int64  `json:"bytes"`
}
