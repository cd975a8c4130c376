package kernel

import "golang.org/x/sys/unix"

// Driver names the driver of a device ("r8169", "cdc_ether", "rndis_host"), as ethtool -i does; "" where nobody says.
func Driver(device string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = unix.Close(fd) }()
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, device)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}
