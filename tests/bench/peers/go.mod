// SPDX-License-Identifier: Apache-2.0

module peers

go 1.19
